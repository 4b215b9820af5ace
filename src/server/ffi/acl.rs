//! What the calling user may do: to keys that its command does not name, and when it has waited.
//!
//! The server checks a command and its keys together: one *selector* of the user (its own rules, or
//! some in parentheses) must allow the command and each key. The module API can ask for a key alone,
//! and is told yes if any selector allows it, be it one for other commands or another database. So
//! the rules are taken apart: the patterns of those selectors that allow this command in this
//! database make a user of the module's own, who may write the keys in question and nothing else.
//! Few users call, and their rules seldom change, so what came of it is kept.
//!
//! Rejected: to ask for a command that names its keys, such as `CACHE.DEL`. Who was allowed
//! `CACHE.INVALIDATE` need not have been allowed that.

use super::commands::Reply;
use super::context::{bytes_of, Arg, Ctx};
use super::entry_point::ArgVec;
use super::main_thread::MainThread;
use super::OK;
use crate::engine::acl::{rules_line, selectors, united, Selector};
use crate::engine::id::{ClientId, DbId};
use redis_module::raw;
use std::ffi::{c_int, CStr, CString};
use std::ptr::null_mut;
use std::rc::Rc;
use std::sync::OnceLock;

/// The keys that a user may change by a command that names none.
pub enum Writable {
    /// All of them.
    All,
    /// Those that fit its patterns; perhaps none.
    Some(Rc<Patterns>),
}

/// Rules about keys, and a user of the module's own who has no others.
pub struct Patterns {
    /// As [`rules_line`] writes them: two that are equal allow the same keys.
    rules: Rc<[u8]>,
    user: User,
}

struct User(*mut raw::RedisModuleUser);

/// What was asked, and what came of it.
struct Asked {
    acl: Box<[u8]>,
    command: &'static CStr,
    db: DbId,
    patterns: Rc<Patterns>,
    all: bool,
}

/// The latest of them, the last used last.
static ASKED: MainThread<Vec<Asked>> = MainThread::new();
static PATTERNS: MainThread<Vec<Rc<Patterns>>> = MainThread::new();
const ASKED_MAX: usize = 64;

impl Ctx<'_> {
    /// The keys that the calling user may change by `command`. In the replication stream, where there
    /// is no user, all of them.
    #[must_use]
    pub fn writable_by(self, command: &'static CStr) -> Writable {
        let caller = match self.caller() {
            Caller::Nobody => return Writable::All,
            Caller::Unlisted => return Writable::Some(self.patterns(&Rc::from(&b""[..]))),
            Caller::Listed(user) => user,
        };
        let (db, acl) = (self.db(), caller.rules(self));
        let known = ASKED.with(|asked| {
            let is_it =
                |it: &Asked| it.db == db && it.command == command && acl.as_ref().is_some_and(|acl| *acl == it.acl);
            let at = asked.iter().rposition(is_it)?;
            let it = asked.remove(at);
            let reply = (it.all, Rc::clone(&it.patterns));
            asked.push(it);
            Some(reply)
        });
        let (all, patterns) = known.unwrap_or_else(|| {
            let rules = acl.as_deref().map_or_else(Vec::new, |acl| write_rules(self, acl, command, db));
            let patterns = self.patterns(&rules.into());
            // Redis before 7.0.6 does not say what the rules are: there it is guessed who has all keys.
            let all = if acl.is_some() { patterns.are_all() } else { caller.seems_to_have_all(self) };
            let asked = acl.map(|acl| Asked { acl, command, db, patterns: Rc::clone(&patterns), all });
            let least = ASKED.with(|all| {
                all.extend(asked);
                (all.len() > ASKED_MAX).then(|| all.remove(0))
            });
            drop(least);
            (all, patterns)
        });
        if all {
            Writable::All
        } else {
            Writable::Some(patterns)
        }
    }

    /// The patterns that have these rules.
    #[must_use]
    pub fn patterns(self, rules: &Rc<[u8]>) -> Rc<Patterns> {
        let known = PATTERNS.with(|known| {
            let at = known.iter().rposition(|patterns| patterns.rules == *rules)?;
            let patterns = known.remove(at);
            known.push(Rc::clone(&patterns));
            Some(patterns)
        });
        known.unwrap_or_else(|| {
            let patterns = Rc::new(Patterns::new(self, Rc::clone(rules)));
            let least = PATTERNS.with(|known| {
                known.push(Rc::clone(&patterns));
                (known.len() > ASKED_MAX).then(|| known.remove(0))
            });
            drop(least);
            patterns
        })
    }

    fn caller(self) -> Caller {
        let mut name = call!(RedisModule_GetClientUserNameById(self.raw, self.client_id().0));
        if name.is_null() && self.has_user() {
            name = call!(RedisModule_GetCurrentUserName(self.raw));
        }
        if name.is_null() {
            return Caller::Nobody;
        }
        let user = User::named(name);
        call!(RedisModule_FreeString(self.raw, name));
        user.map_or(Caller::Unlisted, Caller::Listed)
    }

    /// Whether the user of the calling connection may run `argv`, command and keys, now: permissions may
    /// have been withdrawn since the server checked them. A connection that has no user may run anything;
    /// the rules of a user of another module's own are not told, and no `ACL SETUSER` changes them.
    #[must_use]
    pub fn may_run(self, argv: ArgVec<'_>) -> bool {
        client_may_run(self, (self.client_id(), self.db()), argv.all())
    }

    /// The same while the replies of one turn are made, in which no permission changes. A crowd that asked
    /// for the same as the same user is checked once.
    #[must_use]
    pub(super) fn may_still_run(self, argv: ArgVec<'_>) -> bool {
        let name = call!(RedisModule_GetClientUserNameById(self.raw, self.client_id().0));
        if name.is_null() {
            return true;
        }
        let (user, db) = (bytes_of(name), self.db());
        let known = CHECKED
            .with(|checked| checked.as_ref().filter(|checked| checked.is(user, db, argv)).map(|checked| checked.may));
        let may = known.unwrap_or_else(|| {
            let may = User::named(name).is_none_or(|user| user.may_run(db, argv));
            let checked = Checked::new(user, db, argv, may);
            CHECKED.with(|last| *last = checked);
            may
        });
        call!(RedisModule_FreeString(self.raw, name));
        may
    }

    /// Whether a user calls who is no connection's, as in a script. Redis 7.0 crashes if it is asked
    /// for the name where there is none, so that is found out by a call in the user's name: without
    /// one the server refuses it before it looks at anything else, and with one for its arguments.
    fn has_user(self) -> bool {
        let reply = call!(RedisModule_Call(self.raw, c"CACHE.GET".as_ptr(), c"C".as_ptr()));
        match Reply::new(reply) {
            Some(_) => true,
            None => std::io::Error::last_os_error().raw_os_error() != Some(libc::ENOTSUP),
        }
    }
}

/// Whether the user of the connection `client` may run `argv` in `db`. What has no user may run anything.
pub(super) fn client_may_run(
    ctx: Ctx<'_>,
    (client, db): (ClientId, DbId),
    argv: &[*mut raw::RedisModuleString],
) -> bool {
    let name = call!(RedisModule_GetClientUserNameById(ctx.raw, client.0));
    if name.is_null() {
        return true;
    }
    let user = User::named(name);
    call!(RedisModule_FreeString(ctx.raw, name));
    user.is_none_or(|user| user.may_run_words(db, argv))
}

impl Patterns {
    fn new(ctx: Ctx<'_>, rules: Rc<[u8]>) -> Self {
        let user = User::with(ctx, &rules);
        Self { rules, user }
    }

    /// The rules, from which it can be made anew.
    #[must_use]
    pub fn rules(&self) -> Rc<[u8]> {
        Rc::clone(&self.rules)
    }

    /// True if they allow every key. Asked of the rules: patterns that each leave something out can allow
    /// any sample of names together.
    fn are_all(&self) -> bool {
        *self.rules == *rules_line([&b"~*"[..]])
    }

    /// True if they allow nothing.
    #[must_use]
    pub fn are_none(&self) -> bool {
        self.rules.is_empty()
    }

    /// True if they allow `name` to be written.
    #[must_use]
    pub fn allow(&self, name: Arg<'_>) -> bool {
        self.user.may_write(name)
    }
}

/// What was found out last about a user and a command.
struct Checked {
    user: Box<[u8]>,
    db: DbId,
    words: Vec<Box<[u8]>>,
    may: bool,
}

static CHECKED: MainThread<Option<Checked>> = MainThread::new();

/// Longer commands are checked each time: to remember one costs about as much.
const WORDS_MAX: usize = 12;
const WORD_BYTES_MAX: usize = 1_024;

impl Checked {
    fn new(user: &[u8], db: DbId, argv: ArgVec<'_>, may: bool) -> Option<Self> {
        let is_short = argv.len() <= WORDS_MAX && argv.iter().all(|word| word.bytes().len() <= WORD_BYTES_MAX);
        is_short.then(|| Self {
            user: user.into(),
            db,
            words: argv.iter().map(|word| word.bytes().into()).collect(),
            may,
        })
    }

    fn is(&self, user: &[u8], db: DbId, argv: ArgVec<'_>) -> bool {
        *self.user == *user
            && self.db == db
            && self.words.len() == argv.len()
            && self.words.iter().zip(argv.iter()).all(|(known, word)| **known == *word.bytes())
    }
}

/// Permissions may change from here on.
pub(super) fn forget_checked() {
    CHECKED.with(|checked| *checked = None);
}

impl User {
    fn named(name: *mut raw::RedisModuleString) -> Option<Self> {
        let user = call!(RedisModule_GetModuleUserFromUserName(name));
        // One that is made is freed, so none may be made of nothing.
        (!user.is_null()).then(|| Self(user))
    }

    fn may_run(&self, db: DbId, argv: ArgVec<'_>) -> bool {
        self.may_run_words(db, argv.all())
    }

    fn may_run_words(&self, db: DbId, argv: &[*mut raw::RedisModuleString]) -> bool {
        let argc = c_int::try_from(argv.len()).unwrap_or(c_int::MAX);
        let argv = argv.as_ptr().cast_mut();
        match check_in_db() {
            Some(check) => {
                let mut reason: c_int = 0;
                // SAFETY: the function is the server's own of that name; the user and the arguments are live.
                (unsafe { check(self.0, argv, argc, db, &raw mut reason) }) == OK
            }
            None => call!(RedisModule_ACLCheckCommandPermissions(self.0, argv, argc)) == OK,
        }
    }

    /// One that has only these rules.
    fn with(ctx: Ctx<'_>, rules: &[u8]) -> Self {
        let user = Self(call!(RedisModule_CreateModuleUser(c"cacheguard".as_ptr())));
        if let (false, Ok(rules)) = (rules.is_empty(), CString::new(rules)) {
            let mut error = null_mut();
            // What is refused is not allowed.
            if call!(RedisModule_SetModuleUserACLString(ctx.raw, user.0, rules.as_ptr(), &mut error)) != OK
                && !error.is_null()
            {
                call!(RedisModule_FreeString(ctx.raw, error));
            }
        }
        user
    }

    /// Its rules, as `ACL LIST` shows them; `None` on a server that does not tell.
    fn rules(&self, ctx: Ctx<'_>) -> Option<Box<[u8]>> {
        if !has!(RedisModule_GetModuleUserACLString) || !has!(RedisModule_SetModuleUserACLString) {
            return None;
        }
        let text = call!(RedisModule_GetModuleUserACLString(self.0));
        let rules = bytes_of(text).into();
        call!(RedisModule_FreeString(ctx.raw, text));
        Some(rules)
    }

    /// True if it may write the empty name and a random one, or every byte alone and repeated: as who has
    /// all keys may, and seldom anybody else.
    fn seems_to_have_all(&self, ctx: Ctx<'_>) -> bool {
        let may = |name: &[u8]| self.may_write(ctx.string(name).arg());
        let (random, longer): ([u8; 32], u8) = rand::random();
        let len = 17 + usize::from(longer % 16);
        let may_random = may(&random);
        may_random && (may(b"") || (0..=u8::MAX).all(|byte| may(&[byte]) && may(&vec![byte; len])))
    }

    /// True if one of its selectors allows `name` to be written.
    fn may_write(&self, name: Arg<'_>) -> bool {
        let flag = raw::REDISMODULE_CMD_KEY_DELETE as c_int;
        call!(RedisModule_ACLCheckKeyPermissions(self.0, name.raw, flag)) == OK
    }

    /// True if it may call `command`, which takes one argument or more: Redis 8 asks for the right
    /// number.
    fn may_call(&self, ctx: Ctx<'_>, command: &CStr) -> bool {
        let (name, tag) = (ctx.string(command.to_bytes()), ctx.string(b""));
        let mut argv = [name.arg().raw, tag.arg().raw];
        call!(RedisModule_ACLCheckCommandPermissions(self.0, argv.as_mut_ptr(), argv.len() as c_int)) == OK
    }
}

/// Who calls.
enum Caller {
    /// Nobody: the replication stream, or a file that is loaded.
    Nobody,
    /// A user of another module's own, who is in no list.
    Unlisted,
    /// This user.
    Listed(User),
}

type CheckInDb = unsafe extern "C" fn(
    *mut raw::RedisModuleUser,
    *mut *mut raw::RedisModuleString,
    c_int,
    c_int,
    *mut c_int,
) -> c_int;

/// What Valkey 9.1 has beside `ACLCheckCommandPermissions`, which asks there for all databases at once.
fn check_in_db() -> Option<CheckInDb> {
    static FOUND: OnceLock<Option<CheckInDb>> = OnceLock::new();
    *FOUND.get_or_init(|| {
        let mut found: Option<CheckInDb> = None;
        let place: *mut Option<CheckInDb> = &raw mut found;
        let done = call!(RedisModule_GetApi(c"RedisModule_ACLCheckPermissions".as_ptr(), place.cast()));
        found.filter(|_| done == OK)
    })
}

impl Drop for User {
    fn drop(&mut self) {
        call!(RedisModule_FreeModuleUser(self.0));
    }
}

/// The rules that allow keys to be written, of those selectors that allow `command` in `db`.
fn write_rules(ctx: Ctx<'_>, acl: &[u8], command: &CStr, db: DbId) -> Vec<u8> {
    let all = selectors(acl);
    // The only one there is allowed the command, or it would not run.
    let permitting = all.iter().filter(|selector| {
        let allows = || User::with(ctx, &rules_line(selector.commands())).may_call(ctx, command);
        all.len() == 1 || selector.has_db(db) && allows()
    });
    rules_line(united(permitting.flat_map(Selector::writable).collect()))
}
