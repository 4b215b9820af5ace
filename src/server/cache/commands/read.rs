//! `CACHE.GETSM`, `CACHE.MGETSM` and `CACHE.GET`: reading, with and without the duty to load.

use crate::engine::cache::entry::{Age, Entry};
use crate::engine::cache::freshness::refreshes_early;
use crate::engine::cache::leases::{Asked, Caller, Grant};
use crate::engine::cache::pending::Reply;
use crate::engine::id::{Bond, WaiterId};
use crate::engine::tag::Standing;
use crate::engine::time::DURATION_MS_MAX;
use crate::server::args::Args;
use crate::server::cache::lookup;
use crate::server::cache::lookup::{lookup, Lookup};
use crate::server::cache::reply::{Form, Row};
use crate::server::cache::wait;
use crate::server::error::Error;
use crate::server::ffi::context::{mono_now, unix_now, Arg, Ctx};
use crate::server::ffi::entry_point::ArgVec;
use crate::server::ffi::key::{Holds, Key};
use crate::server::state::STATE;
use crate::server::tag::index;
use crate::server::{config, event_loop, info};
use ahash::AHashMap;
use std::rc::Rc;

/// Keys that one MGETSM may name.
const KEYS_MAX: u64 = 10_000;

/// What a caller asks for beside the key.
#[derive(Clone, Copy, Default)]
struct Terms {
    wait_ms: Option<u64>,
    lease_ms: Option<u64>,
    early_beta: Option<f64>,
    max_stale_ms: Option<u64>,
    bond: Bond,
    form: Form,
}

impl Terms {
    fn parse(args: &mut Args<'_>) -> Result<Self, Error> {
        let mut terms = Self::default();
        while let Some(word) = args.option() {
            match word.as_bytes() {
                b"WAIT" => args.integer_once(&mut terms.wait_ms, "WAIT", 0, DURATION_MS_MAX)?,
                b"LEASE" => args.integer_once(&mut terms.lease_ms, "LEASE", 1, DURATION_MS_MAX)?,
                b"EARLY" => args.float_once(&mut terms.early_beta, "EARLY")?,
                b"MAXSTALE" => args.integer_once(&mut terms.max_stale_ms, "MAXSTALE", 1, DURATION_MS_MAX)?,
                b"BIND" if terms.bond == Bond::Free => terms.bond = Bond::Bound,
                b"META" if terms.form == Form::Plain => terms.form = Form::Meta,
                b"BIND" => return Err(Error::Repeated("BIND")),
                b"META" => return Err(Error::Repeated("META")),
                _ => return Err(args.unknown()),
            }
        }
        Ok(terms)
    }

    /// Whether a stale value is fresh enough for this caller.
    fn accepts(&self, looked_up: &Lookup) -> bool {
        self.max_stale_ms.is_none_or(|max| looked_up.stale_for_ms <= max)
    }

    fn beta(&self) -> f64 {
        self.early_beta.unwrap_or_else(config::early_beta)
    }
}

/// What came of one key: a row to tell, or a wait.
enum Outcome {
    Row(Row<Rc<[u8]>>),
    Blocked(WaiterId),
}

/// `CACHE.GETSM key [WAIT ms] [LEASE ms] [EARLY beta] [MAXSTALE ms] [BIND] [META]`
pub fn getsm(ctx: Ctx<'_>, argv: ArgVec<'_>) -> Result<(), Error> {
    if argv.len() == 2 && plain_hit(ctx, argv) {
        return Ok(());
    }
    let mut args = Args::new(argv);
    let name = args.next("key")?;
    let terms = Terms::parse(&mut args)?;
    if let Some(key) = ctx.open_read(name) {
        if let Holds::Entry(entry) = key.holds() {
            if let Some(row) = hit(entry, &key, &terms) {
                info::HITS.add_one();
                entry.count_hit();
                return row.reply(ctx, terms.form);
            }
        }
    }
    let wait_ms = terms.wait_ms.unwrap_or_else(|| config::WAIT_MS.get());
    match lookup_or_lease(ctx, name, &terms, wait_ms)? {
        Outcome::Row(row) => row.reply(ctx, terms.form),
        Outcome::Blocked(id) => wait::block(ctx, id, tell_one),
    }
}

/// The shortest way to the commonest answer: the value of an entry that is fresh while it lives.
/// False if it is not that simple, and then nothing was answered.
#[inline]
fn plain_hit(ctx: Ctx<'_>, argv: ArgVec<'_>) -> bool {
    let Some(key) = argv.get(1).and_then(|name| ctx.open_read(name)) else { return false };
    match key.entry() {
        Some(entry)
            if entry.never_stale()
                && config::early_beta() == 0.0
                && index::standing_under(&key, entry) == Standing::Live =>
        {
            info::HITS.add_one();
            entry.count_hit();
            ctx.reply_bytes(entry.value());
            true
        }
        _ => false,
    }
}

/// The row of a fresh entry, unless this caller is drawn to refresh it. Needs neither a copy of
/// the value nor, for an entry that never turns stale, the clock.
#[inline]
fn hit<'e>(entry: &'e Entry, key: &Key<'_>, terms: &Terms) -> Option<Row<&'e [u8]>> {
    let beta = terms.beta();
    let cost_ms = entry.meta().cost_ms;
    let draws = beta > 0.0 && cost_ms > 0;
    if entry.never_stale() && !draws && terms.form == Form::Plain && index::standing_under(key, entry) == Standing::Live
    {
        return Some(Row::Hit { value: entry.value(), left_ms: None });
    }
    match lookup::age(entry, key)? {
        Age::Fresh { left_ms } if draws && refreshes_early(cost_ms, beta, left_ms, unit()) => None,
        Age::Fresh { left_ms } => Some(Row::Hit { value: entry.value(), left_ms }),
        Age::Stale { .. } => None,
    }
}

/// Uniform in (0, 1].
fn unit() -> f64 {
    1.0 - rand::random::<f64>()
}

/// All that is not a plain hit: a stale value, one that this caller was drawn to refresh, a native
/// string, or nothing. An entry that is fresh and costs something comes here only if this caller
/// was drawn.
fn lookup_or_lease(ctx: Ctx<'_>, name: Arg<'_>, terms: &Terms, wait_ms: u64) -> Result<Outcome, Error> {
    // ORDER: resolving may change what is under the key.
    event_loop::recheck_key(ctx, ctx.db(), name.bytes());
    let looked_up = lookup(ctx, name)?;
    match &looked_up {
        Some(Lookup { value, age: Age::Fresh { left_ms }, meta, .. }) => {
            let drawn = terms.beta() > 0.0 && meta.cost_ms > 0;
            let grant = if drawn { refresh_early(ctx, name, terms) } else { None };
            let value = Rc::clone(value);
            Ok(Outcome::Row(match grant {
                Some(grant) => {
                    index::watch(ctx, name);
                    Row::Won { value: Some(value), grant }
                }
                None => {
                    info::HITS.add_one();
                    Row::Hit { value, left_ms: *left_ms }
                }
            }))
        }
        Some(looked_up @ Lookup { value, age: Age::Stale { left_ms }, .. }) if terms.accepts(looked_up) => {
            let stale = || {
                info::STALE_HITS.add_one();
                Row::Stale { value: Rc::clone(value), left_ms: *left_ms }
            };
            Ok(Outcome::Row(match ask_stale(ctx, name, terms) {
                Ok(Asked::Won(grant)) => {
                    index::watch(ctx, name);
                    Row::Won { value: Some(Rc::clone(value)), grant }
                }
                _ => stale(),
            }))
        }
        _ => Ok(match ask(ctx, name, terms, wait_ms)? {
            Asked::Won(grant) => {
                index::watch(ctx, name);
                Outcome::Row(Row::Won { value: looked_up.map(|looked_up| looked_up.value), grant })
            }
            Asked::Blocked(id) => Outcome::Blocked(id),
            Asked::Leased { left_ms } => Outcome::Row(Row::Leased { left_ms }),
            Asked::Failed(failure) => Outcome::Row(Row::Failed(failure)),
            Asked::Full => return Err(Error::Full),
        }),
    }
}

fn ask(ctx: Ctx<'_>, name: Arg<'_>, terms: &Terms, wait_ms: u64) -> Result<Asked, Error> {
    info::MISSES.add_one();
    let caller = caller(ctx, terms, wait_ms)?;
    let (db, now) = (ctx.db(), mono_now());
    let asked = STATE.with(|state| {
        let waiters_max = state.waiters_max(state.leases.waiters().len());
        state.leases.ask(db, name.bytes(), caller, waiters_max, now)
    });
    event_loop::schedule(ctx);
    Ok(asked)
}

fn ask_stale(ctx: Ctx<'_>, name: Arg<'_>, terms: &Terms) -> Result<Asked, Error> {
    let caller = caller(ctx, terms, 0)?;
    let (db, now) = (ctx.db(), mono_now());
    let asked = STATE.with(|state| state.leases.ask_stale(db, name.bytes(), caller, now));
    event_loop::schedule(ctx);
    Ok(asked)
}

fn refresh_early(ctx: Ctx<'_>, name: Arg<'_>, terms: &Terms) -> Option<Grant> {
    let caller = caller(ctx, terms, 0).ok()?;
    let (db, now) = (ctx.db(), mono_now());
    let grant = STATE.with(|state| state.leases.ask_early(db, name.bytes(), caller, now));
    event_loop::schedule(ctx);
    grant
}

/// Who asks, and whether it can wait here.
fn caller(ctx: Ctx<'_>, terms: &Terms, wait_ms: u64) -> Result<Caller, Error> {
    let situation = ctx.situation();
    if situation.is_replica() {
        return Err(Error::Readonly);
    }
    if situation.is_script() && terms.bond == Bond::Bound {
        return Err(Error::NotInScript("BIND"));
    }
    Ok(Caller {
        client: ctx.client_id(),
        wait_ms: if wait_ms > 0 && ctx.is_nested(situation) { 0 } else { wait_ms },
        lease_ms: terms.lease_ms.unwrap_or_else(|| config::LEASE_MS.get()),
        bond: terms.bond,
    })
}

/// Answers a GETSM that waited.
fn tell_one(ctx: Ctx<'_>, argv: ArgVec<'_>, reply: &Reply) -> Result<(), Error> {
    let mut args = Args::new(argv);
    let name = args.next("key")?;
    let terms = Terms::parse(&mut args)?;
    let row = match reply {
        Reply::Value(served) => {
            let left_ms = served.fresh_until.map(|at| at.since(unix_now()));
            Row::Hit { value: Rc::clone(&served.value), left_ms }
        }
        Reply::Won(grant) => {
            let value = lookup(ctx, name)?.map(|looked_up| looked_up.value);
            Row::Won { value, grant: grant.clone() }
        }
        Reply::Leased { left_ms } => Row::Leased { left_ms: *left_ms },
        // One may have come to be there while it waited.
        Reply::Failed(failure) => match lookup(ctx, name)? {
            Some(looked_up @ Lookup { age: Age::Stale { left_ms }, .. }) if terms.accepts(&looked_up) => {
                Row::Stale { value: looked_up.value, left_ms }
            }
            _ => Row::Failed(failure.clone()),
        },
        Reply::Look => match lookup(ctx, name)? {
            Some(Lookup { value, age: Age::Fresh { left_ms }, .. }) => Row::Hit { value, left_ms },
            Some(looked_up @ Lookup { age: Age::Stale { left_ms }, .. }) if terms.accepts(&looked_up) => {
                Row::Stale { value: looked_up.value, left_ms }
            }
            _ => match ask(ctx, name, &terms, 0)? {
                Asked::Won(grant) => {
                    index::watch(ctx, name);
                    Row::Won { value: lookup(ctx, name)?.map(|looked_up| looked_up.value), grant }
                }
                Asked::Leased { left_ms } => Row::Leased { left_ms },
                Asked::Failed(failure) => Row::Failed(failure),
                Asked::Full => return Err(Error::Full),
                Asked::Blocked(_) => return Err(Error::Internal),
            },
        },
        Reply::WrongType => return Err(Error::WrongType),
        Reply::Moved => return Err(Error::Moved),
        Reply::Readonly => return Err(Error::Readonly),
    };
    row.reply(ctx, terms.form)
}

/// `CACHE.MGETSM numkeys key [key ...] [WAIT ms] [LEASE ms] [EARLY beta] [MAXSTALE ms] [BIND]`
pub fn mgetsm(ctx: Ctx<'_>, argv: ArgVec<'_>) -> Result<(), Error> {
    let (names, terms) = parse_many(argv)?;
    let rows = rows(ctx, &names, &terms, None)?;
    let leased: Vec<&[u8]> =
        names.iter().zip(&rows).filter(|(_, row)| is_leased(row)).map(|(name, _)| name.bytes()).collect();
    let won = rows.iter().any(|row| matches!(row, Row::Won { .. }));
    if !won && !leased.is_empty() {
        let wait_ms = terms.wait_ms.unwrap_or_else(|| config::WAIT_MS.get());
        if let Ok(caller) = caller(ctx, &terms, wait_ms) {
            let (db, now) = (ctx.db(), mono_now());
            let blocked = STATE.with(|state| {
                let waiters_max = state.waiters_max(state.leases.waiters().len());
                state.leases.wait_for_all(db, &leased, caller, waiters_max, now)
            });
            event_loop::schedule(ctx);
            if let Some(id) = blocked {
                return wait::block(ctx, id, tell_many);
            }
        }
    }
    reply_rows(ctx, &rows);
    Ok(())
}

fn is_leased<V>(row: &Row<V>) -> bool {
    matches!(row, Row::Leased { .. })
}

fn parse_many(argv: ArgVec<'_>) -> Result<(Vec<Arg<'_>>, Terms), Error> {
    let mut args = Args::new(argv);
    let count = args.integer("numkeys", 1, KEYS_MAX)?;
    let names = (0..count).map(|_| args.next("key")).collect::<Result<Vec<_>, _>>()?;
    let terms = Terms { form: Form::Meta, ..Terms::parse(&mut args)? };
    Ok((names, terms))
}

/// What each key comes to without waiting. `granted` is a lease the caller holds already. Keys of
/// another type are found before any lease is taken.
fn rows(ctx: Ctx<'_>, names: &[Arg<'_>], terms: &Terms, granted: Option<&Grant>) -> Result<Vec<Row<Rc<[u8]>>>, Error> {
    for name in names {
        if ctx.open_read(*name).is_some_and(|key| matches!(key.holds(), Holds::Other)) {
            return Err(Error::WrongType);
        }
    }
    let mut unclaimed = granted;
    let mut rows: Vec<Row<Rc<[u8]>>> = Vec::with_capacity(names.len());
    // A name that is given again is served the same value, of which there is one copy.
    let mut served: AHashMap<&[u8], usize> = AHashMap::new();
    for name in names {
        if let Some(row) = served.get(name.bytes()).and_then(|at| rows.get(*at)).cloned() {
            rows.push(row);
            continue;
        }
        let claim = unclaimed.take_if(|grant| *grant.db_key.key == *name.bytes());
        let next = match claim {
            Some(grant) => lookup(ctx, *name)
                .map(|looked_up| Row::Won { value: looked_up.map(|looked_up| looked_up.value), grant: grant.clone() }),
            None => row(ctx, *name, terms),
        };
        match next {
            Ok(row) => {
                if matches!(row, Row::Hit { .. } | Row::Stale { .. }) {
                    served.insert(name.bytes(), rows.len());
                }
                rows.push(row);
            }
            Err(error) => {
                give_back(ctx, &rows);
                return Err(error);
            }
        }
    }
    Ok(rows)
}

/// Ends the leases in `rows`, of which the caller will not hear.
fn give_back(ctx: Ctx<'_>, rows: &[Row<Rc<[u8]>>]) {
    let now = mono_now();
    for row in rows {
        if let Row::Won { grant, .. } = row {
            STATE.with(|state| state.leases.give_back(grant, now));
        }
    }
    event_loop::schedule(ctx);
}

fn row(ctx: Ctx<'_>, name: Arg<'_>, terms: &Terms) -> Result<Row<Rc<[u8]>>, Error> {
    let hit = ctx.open_read(name).and_then(|key| match key.holds() {
        Holds::Entry(entry) => hit(entry, &key, terms).map(|row| {
            entry.count_hit();
            row.copied()
        }),
        _ => None,
    });
    if let Some(row) = hit {
        info::HITS.add_one();
        return Ok(row);
    }
    match lookup_or_lease(ctx, name, terms, 0)? {
        Outcome::Row(row) => Ok(row),
        Outcome::Blocked(_) => Err(Error::Internal),
    }
}

/// Answers a MGETSM that waited.
fn tell_many(ctx: Ctx<'_>, argv: ArgVec<'_>, reply: &Reply) -> Result<(), Error> {
    let granted = match reply {
        Reply::Won(grant) => Some(grant),
        Reply::WrongType => return Err(Error::WrongType),
        Reply::Moved => return Err(Error::Moved),
        Reply::Readonly => return Err(Error::Readonly),
        Reply::Look | Reply::Value(_) | Reply::Leased { .. } | Reply::Failed(_) => None,
    };
    let (names, terms) = parse_many(argv)?;
    let rows = rows(ctx, &names, &terms, granted)?;
    reply_rows(ctx, &rows);
    Ok(())
}

fn reply_rows(ctx: Ctx<'_>, rows: &[Row<Rc<[u8]>>]) {
    ctx.reply_array(rows.len());
    for row in rows {
        row.reply_meta(ctx);
    }
}

/// `CACHE.GET key [META]`
pub fn get(ctx: Ctx<'_>, argv: ArgVec<'_>) -> Result<(), Error> {
    let mut args = Args::new(argv);
    let name = args.next("key")?;
    let mut form = Form::Plain;
    while let Some(word) = args.option() {
        match (word.as_bytes(), form) {
            (b"META", Form::Plain) => form = Form::Meta,
            (b"META", Form::Meta) => return Err(Error::Repeated("META")),
            _ => return Err(args.unknown()),
        }
    }
    let row = match lookup(ctx, name)? {
        Some(Lookup { value, age: Age::Fresh { left_ms }, .. }) => {
            info::HITS.add_one();
            Row::Hit { value, left_ms }
        }
        Some(Lookup { value, age: Age::Stale { left_ms }, .. }) => {
            info::STALE_HITS.add_one();
            Row::Stale { value, left_ms }
        }
        None => {
            info::MISSES.add_one();
            Row::Miss
        }
    };
    row.reply(ctx, form)
}
