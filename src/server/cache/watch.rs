//! Commands as the filter shows them: which of them concern a lease, and how.
//!
//! Most are reads and cost a hash of their name. A write costs the hashes of its keys; only if one
//! of them has a lease, or the command is queued or held back, is the server asked what exactly it does to
//! each.

use crate::engine::cache::leases::Touch;
use crate::engine::cache::plain::known::{short_key, undescribed, KeyUse, Kind, Known, Name, Reach, Span};
use crate::engine::cache::plain::Effect;
use crate::server::ffi::commands::Asked;
use crate::server::ffi::context::mono_now;
use crate::server::ffi::events;
use crate::server::ffi::filter;
use crate::server::ffi::filter::Seen;
use crate::server::ffi::main_thread::MainThread;
use crate::server::state::STATE;
use crate::server::{event_loop, table};

/// The commands that were seen since modules last came or went.
static KNOWN: MainThread<Known> = MainThread::new();

/// The server is about to run or to queue a command.
pub fn saw(seen: Seen<'_>) {
    let effect = match kind(seen) {
        Kind::Harmless | Kind::Container => return,
        Kind::Writes { span, reach } => return saw_write(seen, span, reach),
        // The server is about to refuse it: nobody ends a lease by what it may not do.
        _ if !seen.is_permitted() => return,
        Kind::Everything(touch) => Effect::Everything(touch),
        Kind::Multi => Effect::Queue(true),
        Kind::Discard => Effect::Queue(false),
        Kind::Reset => Effect::Reset,
        // Refused outside of a transaction.
        Kind::Exec if seen.client().is_some_and(|client| !filter::is_in_transaction(client)) => return,
        Kind::Exec => Effect::Exec,
    };
    let words = (1..seen.len()).map(|at| (seen.argument(at), Touch::Appeared));
    event_loop::saw(effect, seen.client(), words, mono_now());
}

fn saw_write(seen: Seen<'_>, span: Span, reach: Reach) {
    let (client, count, paused) = (seen.client(), seen.len(), filter::writes_are_paused());
    let (concerns, rechecks) = STATE.with(|state| {
        let Some((_, watch)) = &mut state.watch else { return (false, false) };
        let named = span.positions(count).map(|at| seen.argument(at));
        let concerns = paused || watch.concerns(&state.leases, client, named);
        let rechecks = !state.leases.waiters().is_empty() && watch.recheck.wrote(&state.leases, mono_now());
        (concerns, rechecks)
    });
    if concerns && seen.is_permitted() {
        let touches = touches(seen, reach);
        event_loop::saw(Effect::Keys, client, touches.iter().copied(), mono_now());
    }
    if rechecks {
        event_loop::schedule(events::background());
    }
}

/// What a write may do to each of its keys.
fn touches(seen: Seen<'_>, reach: Reach) -> Vec<(&[u8], Touch)> {
    let (keys, count) = (seen.keys(), seen.len());
    let name = Name::new(seen.argument(0));
    let subcommand = name.filter(|_| count > 1).and_then(|name| name.subcommand(seen.argument(1)));
    KNOWN.with(|known| {
        let described = |name: Option<Name>, at| name.and_then(|name| known.key_use(name.as_bytes(), at, count));
        let touch = |(at, key_use): (usize, Option<KeyUse>)| {
            let key_use = key_use.or_else(|| described(subcommand, at)).or_else(|| described(name, at));
            Some((seen.argument(at), key_use.unwrap_or(KeyUse::Changes).mark_touched(reach)?))
        };
        keys.into_iter().filter_map(touch).collect()
    })
}

#[inline]
fn kind(seen: Seen<'_>) -> Kind {
    let word = seen.argument(0);
    match short_key(word).and_then(|key| KNOWN.with(|known| known.get_short(key))) {
        None | Some(Kind::Container) => kind_by_name(seen, word),
        Some(kind) => kind,
    }
}

fn kind_by_name(seen: Seen<'_>, word: &[u8]) -> Kind {
    // Not the name of any command that the server describes.
    let Some(name) = Name::new(word) else { return undescribed(b"") };
    match known(name) {
        Kind::Container if seen.len() > 1 => match name.subcommand(seen.argument(1)) {
            Some(name) => known(name),
            None => Kind::Harmless,
        },
        kind => kind,
    }
}

#[inline]
fn known(name: Name) -> Kind {
    KNOWN.with(|known| known.get(name.as_bytes())).unwrap_or_else(|| learn(name.as_bytes()))
}

/// Asks the server for what it knows of a name; what it does not know either it will refuse.
#[cold]
fn learn(name: &[u8]) -> Kind {
    let ctx = events::background();
    let (kind, uses) = match ctx.describe_command(name) {
        _ if table::minds_leases(name) => (Kind::Harmless, Vec::new()),
        Asked::Described(description) => (description.kind(), description.uses),
        Asked::Unknown if name.contains(&b'|') || !ctx.has_command(name) => return Kind::Harmless,
        Asked::Unknown | Asked::Silent => (undescribed(name), Vec::new()),
    };
    KNOWN.with(|known| known.insert(name, kind, uses));
    kind
}

/// Modules came or went, and their commands with them.
pub fn forget_commands() {
    KNOWN.with(Known::clear);
}
