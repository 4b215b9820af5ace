//! The one place where data changes.
//!
//! [`store`] and [`delete`] do all that a change needs, in the one order that is right: store,
//! TTL, replicate the effect, notify. What is replicated is what happened (an absolute time, the
//! cost as measured), never the question.

use super::ffi::context::{Arg, Ctx, Effect};
use super::ffi::key::Key;
use crate::engine::entry::{Entry, Meta};
use crate::engine::time::UnixMillis;

/// When the freshness of an entry ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FreshUntil {
    /// At that time; its stale period follows, then it goes.
    At(UnixMillis),
    /// Never: the key has no TTL.
    Forever,
}

/// Puts an entry under `key`, which is open for writing as `name`.
pub fn store(ctx: Ctx<'_>, key: &mut Key<'_>, name: Arg<'_>, value: Arg<'_>, meta: Meta, fresh: FreshUntil) {
    key.store(Entry::new(value.bytes(), meta));
    // ORDER: storing may drop the TTL, so it comes first.
    let mut effect = [Effect::Word(c"PERSIST"); 10];
    let mut len = 0;
    let mut push = |word| {
        if let Some(place) = effect.get_mut(len) {
            *place = word;
            len += 1;
        }
    };
    push(Effect::Arg(name));
    push(Effect::Arg(value));
    match fresh {
        FreshUntil::At(at) => {
            key.expire_at(Some(at.after(meta.stale_ms)));
            push(Effect::Word(c"PXAT"));
            push(Effect::Number(at.0));
        }
        FreshUntil::Forever => {
            key.expire_at(None);
            push(Effect::Word(c"PERSIST"));
        }
    }
    for (word, number) in [(c"STALE", meta.stale_ms), (c"VERSION", meta.version), (c"COST", meta.cost_ms.into())] {
        if number > 0 {
            push(Effect::Word(word));
            push(Effect::Number(number));
        }
    }
    ctx.replicate(c"CACHE.SETSM", effect.get(..len).unwrap_or_default());
    ctx.notify(c"cache.setsm", name);
}

/// Deletes what is under `key`, which is open for writing as `name`.
pub fn delete(ctx: Ctx<'_>, key: &mut Key<'_>, name: Arg<'_>) {
    key.delete();
    ctx.replicate(c"UNLINK", &[Effect::Arg(name)]);
    ctx.notify_deleted(name);
}
