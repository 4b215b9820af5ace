//! `CACHE.LOCK`, `CACHE.UNLOCK`, `CACHE.EXTEND` and `CACHE.LOCKINFO`.

use super::commit;
use crate::engine::id::Bond;
use crate::engine::lock::{codec, Asked, Change, Holder, Lock, Mode, Reply, Request, Term};
use crate::engine::lock::{FENCE_MAX, HOLDERS_MAX, OWNER_BYTES_MAX};
use crate::engine::time::{UnixMillis, DURATION_MS_MAX};
use crate::server::args::{Args, Word};
use crate::server::error::Error;
use crate::server::ffi::context::{unix_now, Arg, Ctx, Situation};
use crate::server::ffi::entry_point::ArgVec;
use crate::server::ffi::key::{Holds, Key};
use crate::server::lock::wait;
use crate::server::state::STATE;

/// What a caller says beside key and owner.
struct Given {
    term: Term,
    wait_ms: Option<u64>,
    mode: Mode,
    bond: Bond,
    fence: Option<u64>,
}

impl Given {
    fn parse(args: &mut Args<'_>) -> Result<Self, Error> {
        let term = if Word::new(args.peek("ttl")?.bytes()).as_bytes() == b"PXAT" {
            args.next("ttl")?;
            Term::Until(UnixMillis(args.integer("PXAT", 1, codec::DEADLINE_MS_MAX)?))
        } else {
            Term::Lasts(args.integer("ttl", 1, DURATION_MS_MAX)?)
        };
        let (mut wait_ms, mut permits, mut fence) = (None, None, None);
        let (mut shared, mut bond) = (None, Bond::Free);
        while let Some(word) = args.option() {
            match word.as_bytes() {
                b"WAIT" => args.integer_once(&mut wait_ms, "WAIT", 0, DURATION_MS_MAX)?,
                b"PERMITS" => args.integer_once(&mut permits, "PERMITS", 1, HOLDERS_MAX as u64)?,
                b"FENCE" => args.integer_once(&mut fence, "FENCE", 1, FENCE_MAX)?,
                b"SHARED" if shared.is_none() => shared = Some(Mode::Shared),
                b"BIND" if bond == Bond::Free => bond = Bond::Bound,
                b"SHARED" => return Err(Error::Repeated("SHARED")),
                b"BIND" => return Err(Error::Repeated("BIND")),
                _ => return Err(args.unknown()),
            }
        }
        if shared.is_some() && permits.is_some() {
            return Err(Error::Contradiction("SHARED", "PERMITS"));
        }
        if wait_ms.is_some() && matches!(term, Term::Until(_)) {
            return Err(Error::Contradiction("WAIT", "PXAT"));
        }
        let permits = permits.and_then(|n| u32::try_from(n).ok()).map(Mode::Permits);
        Ok(Self { term, wait_ms, mode: permits.or(shared).unwrap_or(Mode::Exclusive), bond, fence })
    }

    /// Whether the caller says something that not every caller may.
    fn depends_on_situation(&self) -> bool {
        self.fence.is_some() || self.bond == Bond::Bound || self.wait_ms.is_some_and(|ms| ms > 0)
    }
}

fn owner<'c>(args: &mut Args<'c>) -> Result<Arg<'c>, Error> {
    let owner = args.next("owner")?;
    if owner.bytes().len() > OWNER_BYTES_MAX {
        return Err(Error::TooLong { name: "owner", bytes_max: OWNER_BYTES_MAX });
    }
    Ok(owner)
}

/// `CACHE.LOCK key owner ttl|PXAT unix-ms [WAIT ms] [SHARED] [PERMITS n] [BIND] [FENCE n]`
pub fn lock(ctx: Ctx<'_>, argv: ArgVec<'_>) -> Result<(), Error> {
    let mut args = Args::new(argv);
    let (name, owner) = (args.next("key")?, owner(&mut args)?);
    let given = Given::parse(&mut args)?;
    let situation = given.depends_on_situation().then(|| ctx.situation());
    if situation.is_some_and(Situation::replays) {
        return replay(ctx, name, owner, &given);
    }
    let now = wait::now();
    let wait_ms = admissible_wait(ctx, &given, situation, now.unix)?;
    let db = ctx.db();
    let mut key = wait::open(ctx, db, name)?;
    if key.value::<Lock>().is_some_and(|lock| lock.overdue(now.unix).is_some()) {
        drop(key);
        key = wait::open_overdue(ctx, db, name)?;
    }
    let request = Request {
        owner: owner.bytes().into(),
        client: ctx.client_id(),
        mode: given.mode,
        term: given.term,
        bond: given.bond,
        at_least: given.fence.unwrap_or(0),
    };
    let held = key.value::<Lock>();
    let asked = STATE.with(|state| {
        let waiters_max = state.waiters_max(state.locks.waiters());
        state.locks.ask((db, name.bytes()), held, request, (wait_ms, waiters_max), now)
    });
    match asked {
        Asked::Granted { fence, change } | Asked::Again { fence, change } => {
            wait::commit(ctx, key, db, name, &change);
            ctx.reply_unsigned(fence);
        }
        Asked::Blocked(id) => {
            drop(key);
            return wait::block(ctx, id, tell);
        }
        Asked::Busy => ctx.reply_nil(),
        Asked::Clash(mode) => return Err(Error::HeldAs(mode)),
        Asked::Otherwise(mode) => return Err(Error::HeldOtherwise(mode)),
        Asked::Exhausted => return Err(Error::NumbersUsedUp),
    }
    Ok(())
}

/// How long the caller may wait, in milliseconds.
fn admissible_wait(ctx: Ctx<'_>, given: &Given, situation: Option<Situation>, now: UnixMillis) -> Result<u64, Error> {
    if matches!(given.term, Term::Until(at) if at <= now) {
        return Err(Error::Past("PXAT"));
    }
    if given.fence.is_some_and(|fence| !STATE.with(|state| state.locks.fences.admits(fence, now))) {
        return Err(Error::FarAhead("FENCE"));
    }
    let Some(situation) = situation else { return Ok(0) };
    if situation.is_replica() {
        return Err(Error::Readonly);
    }
    if situation.is_script() && given.bond == Bond::Bound {
        return Err(Error::NotInScript("BIND"));
    }
    let wait_ms = given.wait_ms.unwrap_or(0);
    Ok(if wait_ms > 0 && ctx.is_nested(situation) { 0 } else { wait_ms })
}

/// What a primary granted, told to its replica or written to a file: it is so, whatever the clock
/// says here.
fn replay(ctx: Ctx<'_>, name: Arg<'_>, owner: Arg<'_>, given: &Given) -> Result<(), Error> {
    let fence = given.fence.ok_or(Error::Missing("FENCE"))?;
    let db = ctx.db();
    let key = wait::open(ctx, db, name)?;
    STATE.with(|state| state.locks.fences.see(fence));
    let holder = Holder {
        owner: owner.bytes().into(),
        fence,
        deadline: given.term.end(unix_now()),
        client: None,
        bond: Bond::Free,
        told_twice: false,
    };
    commit::commit(ctx, key, db, name, &Change::Hold { mode: given.mode, holder });
    ctx.reply_unsigned(fence);
    Ok(())
}

/// Answers a LOCK that waited.
fn tell(ctx: Ctx<'_>, _argv: ArgVec<'_>, reply: &Reply) -> Result<(), Error> {
    match reply {
        Reply::Granted(granted) => ctx.reply_unsigned(granted.fence),
        Reply::TimedOut => ctx.reply_nil(),
        Reply::Clash(mode) => return Err(Error::HeldAs(*mode)),
        Reply::Otherwise(mode) => return Err(Error::HeldOtherwise(*mode)),
        Reply::Exhausted => return Err(Error::NumbersUsedUp),
        Reply::WrongType => return Err(Error::WrongType),
        Reply::Moved => return Err(Error::Moved),
        Reply::Readonly => return Err(Error::Readonly),
    }
    Ok(())
}

/// `CACHE.UNLOCK key owner`
pub fn unlock(ctx: Ctx<'_>, argv: ArgVec<'_>) -> Result<(), Error> {
    let mut args = Args::new(argv);
    let (name, owner) = (args.next("key")?, owner(&mut args)?);
    let (db, now) = (ctx.db(), unix_now());
    let key = wait::open(ctx, db, name)?;
    let change = key.value::<Lock>().and_then(|lock| {
        // A holder past its deadline is nobody, but a primary says when it is removed.
        let as_of = if lock.overdue(now).is_some() && ctx.situation().replays() { UnixMillis(0) } else { now };
        lock.release(owner.bytes(), as_of)
    });
    let held = change.is_some();
    if let Some(change) = change {
        wait::commit(ctx, key, db, name, &change);
    }
    ctx.reply_integer(held.into());
    Ok(())
}

/// `CACHE.EXTEND key owner ttl`
pub fn extend(ctx: Ctx<'_>, argv: ArgVec<'_>) -> Result<(), Error> {
    let mut args = Args::new(argv);
    let (name, owner) = (args.next("key")?, owner(&mut args)?);
    let ttl_ms = args.integer("ttl", 1, DURATION_MS_MAX)?;
    let (db, now) = (ctx.db(), unix_now());
    let key = wait::open(ctx, db, name)?;
    let change = key.value::<Lock>().and_then(|lock| {
        let (db_key, until) = ((db, name.bytes()), now.after(ttl_ms));
        STATE.with(|state| state.locks.extend(db_key, lock, owner.bytes(), until, now))
    });
    let held = change.is_some();
    if let Some(change) = change {
        wait::commit(ctx, key, db, name, &change);
    }
    ctx.reply_integer(held.into());
    Ok(())
}

/// `CACHE.LOCKINFO key`
pub fn lockinfo(ctx: Ctx<'_>, argv: ArgVec<'_>) -> Result<(), Error> {
    let name = Args::new(argv).next("key")?;
    let now = wait::now();
    let key = ctx.open_quietly(name);
    let lock = key.as_ref().and_then(Key::value::<Lock>);
    if lock.is_none() && key.as_ref().is_some_and(|key| !matches!(key.holds(), Holds::Nothing)) {
        return Err(Error::WrongType);
    }
    let holders: Vec<_> = lock.into_iter().flat_map(|lock| lock.live(now.unix)).collect();
    let (mode, permits) = match lock.filter(|_| !holders.is_empty()).map(Lock::mode) {
        None => (&b"free"[..], 0),
        Some(Mode::Exclusive) => (&b"exclusive"[..], 1),
        Some(Mode::Shared) => (&b"shared"[..], 0),
        Some(Mode::Permits(n)) => (&b"permits"[..], n.into()),
    };
    let db = ctx.db();
    let (line, last_fence) =
        STATE.with(|state| (state.locks.view(db, name.bytes(), now.mono), state.locks.fences.last()));
    ctx.reply_map(5);
    ctx.reply_bytes(b"mode");
    ctx.reply_bytes(mode);
    ctx.reply_bytes(b"permits");
    ctx.reply_unsigned(permits);
    ctx.reply_bytes(b"holders");
    ctx.reply_array(holders.len());
    for holder in holders {
        let bond = STATE.with(|state| state.locks.bond(db, name.bytes(), holder));
        reply_holder(ctx, holder, bond, now.unix);
    }
    ctx.reply_bytes(b"waiters");
    ctx.reply_map(2);
    ctx.reply_bytes(b"count");
    ctx.reply_unsigned(line.waiters as u64);
    ctx.reply_bytes(b"oldest_ms");
    ctx.reply_unsigned(line.oldest_ms);
    ctx.reply_bytes(b"last_fence");
    ctx.reply_unsigned(last_fence);
    Ok(())
}

fn reply_holder(ctx: Ctx<'_>, holder: &Holder, bond: Bond, now: UnixMillis) {
    ctx.reply_map(5);
    ctx.reply_bytes(b"owner");
    ctx.reply_bytes(&holder.owner);
    ctx.reply_bytes(b"fence");
    ctx.reply_unsigned(holder.fence);
    ctx.reply_bytes(b"left_ms");
    ctx.reply_unsigned(holder.deadline.since(now));
    ctx.reply_bytes(b"client");
    holder.client.map_or_else(|| ctx.reply_nil(), |client| ctx.reply_unsigned(client.0));
    ctx.reply_bytes(b"bound");
    ctx.reply_integer((bond == Bond::Bound).into());
}
