//! The one place where data changes.
//!
//! Each function does all that a change needs, in the one order that is right: store, TTL, signal,
//! replicate the effect, notify. What is replicated is what happened (an absolute time, the cost
//! as measured), never the question.

use super::ffi::context::{Arg, Ctx, Effect};
use super::ffi::key::{Holds, Key};
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

impl FreshUntil {
    /// That time, if there is one.
    #[must_use]
    pub fn instant(self) -> Option<UnixMillis> {
        match self {
            Self::At(at) => Some(at),
            Self::Forever => None,
        }
    }
}

/// Puts an entry under `key`, which is open for writing as `name` and `held` another entry or none.
pub fn store(
    ctx: Ctx<'_>,
    key: &mut Key<'_>,
    name: Arg<'_>,
    value: Arg<'_>,
    (meta, held): (Meta, Option<Meta>),
    fresh: FreshUntil,
) {
    // ORDER: storing may drop the TTL, so that is set after.
    key.put(Entry::new(value.bytes(), meta));
    key.expire_at(end(fresh, meta));
    ctx.signal_modified(name);
    // A write that does not say its cost leaves the former one, so 0 after another has to be said.
    let costs = meta.cost_ms > 0 || held.is_some_and(|held| held.cost_ms > 0);
    match fresh {
        FreshUntil::At(at) if meta == Meta::default() && !costs => {
            ctx.replicate_pxat(c"CACHE.SETSM", name, value, at.0);
        }
        _ => {
            let mut effect = Words::new(&[Effect::Arg(name), Effect::Arg(value)]);
            effect.push_freshness(fresh);
            effect.push_number(c"STALE", meta.stale_ms);
            effect.push_number(c"VERSION", meta.version);
            if costs {
                effect.push(Effect::Word(c"COST"));
                effect.push(Effect::Number(meta.cost_ms.into()));
            }
            ctx.replicate(c"CACHE.SETSM", effect.all());
        }
    }
    ctx.notify(c"cache.setsm", name);
}

/// Re-arms the entry under `key`, which is open for writing as `name` and holds `value`. A native
/// string becomes an entry.
pub fn touch(ctx: Ctx<'_>, key: &mut Key<'_>, name: Arg<'_>, value: &[u8], meta: Meta, fresh: FreshUntil) {
    match key.value_mut::<Entry>() {
        Some(entry) => entry.meta = meta,
        None => drop(key.put(Entry::new(value, meta))),
    }
    key.expire_at(end(fresh, meta));
    ctx.signal_modified(name);
    let mut effect = Words::new(&[Effect::Arg(name)]);
    effect.push_freshness(fresh);
    effect.push_number(c"STALE", meta.stale_ms);
    ctx.replicate(c"CACHE.TOUCH", effect.all());
    ctx.notify(c"cache.touch", name);
}

/// Deletes what is under `names`; how many keys there were.
pub fn delete(ctx: Ctx<'_>, names: &[Arg<'_>]) -> usize {
    let mut deleted = names.to_vec();
    deleted.retain(|name| {
        let mut key = ctx.open_write(*name);
        let exists = !matches!(key.holds(), Holds::Nothing);
        if exists {
            key.delete();
        }
        exists
    });
    tell_deleted(ctx, &deleted);
    deleted.len()
}

fn tell_deleted(ctx: Ctx<'_>, names: &[Arg<'_>]) {
    if names.is_empty() {
        return;
    }
    names.iter().for_each(|name| ctx.signal_modified(*name));
    let effect: Vec<_> = names.iter().map(|name| Effect::Arg(*name)).collect();
    ctx.replicate(c"UNLINK", &effect);
    for name in names {
        ctx.notify_deleted(*name);
    }
}

fn end(fresh: FreshUntil, meta: Meta) -> Option<UnixMillis> {
    fresh.instant().map(|at| at.after(meta.stale_ms))
}

const WORDS_MAX: usize = 10;

/// The arguments of a replicated command, without an allocation.
struct Words<'a> {
    words: [Effect<'a>; WORDS_MAX],
    len: usize,
}

impl<'a> Words<'a> {
    fn new(first: &[Effect<'a>]) -> Self {
        let mut words = Self { words: [Effect::Word(c""); WORDS_MAX], len: 0 };
        first.iter().for_each(|word| words.push(*word));
        words
    }

    fn push(&mut self, word: Effect<'a>) {
        if let Some(place) = self.words.get_mut(self.len) {
            *place = word;
            self.len += 1;
        }
    }

    fn push_freshness(&mut self, fresh: FreshUntil) {
        match fresh {
            FreshUntil::At(at) => {
                self.push(Effect::Word(c"PXAT"));
                self.push(Effect::Number(at.0));
            }
            FreshUntil::Forever => self.push(Effect::Word(c"PERSIST")),
        }
    }

    /// An option, left out where it says nothing.
    fn push_number(&mut self, word: &'static std::ffi::CStr, number: u64) {
        if number > 0 {
            self.push(Effect::Word(word));
            self.push(Effect::Number(number));
        }
    }

    fn all(&self) -> &[Effect<'a>] {
        self.words.get(..self.len).unwrap_or_default()
    }
}
