//! What the calling user may do: to keys that it does not name, and when it has waited.

use super::context::{bytes_of, Arg, Ctx};
use super::entry_point::ArgVec;
use super::main_thread::MainThread;
use super::OK;
use redis_module::raw;
use std::ffi::c_int;

/// What a command does to keys that its caller does not name.
#[derive(Clone, Copy)]
pub enum Change {
    /// It deletes them.
    Delete,
    /// It changes them.
    Update,
}

/// The user that calls.
pub struct User(*mut raw::RedisModuleUser);

impl Ctx<'_> {
    /// The calling user; `None` where there is none, as in the replication stream.
    #[must_use]
    pub fn user(self) -> Option<User> {
        let mut name = call!(RedisModule_GetClientUserNameById(self.raw, self.client_id().0));
        if name.is_null() && self.has_user() {
            name = call!(RedisModule_GetCurrentUserName(self.raw));
        }
        if name.is_null() {
            return None;
        }
        let user = call!(RedisModule_GetModuleUserFromUserName(name));
        call!(RedisModule_FreeString(self.raw, name));
        (!user.is_null()).then_some(User(user))
    }

    /// Whether the user of the calling connection may run `argv`, command and keys, now: permissions may
    /// have been withdrawn since the server checked them. A connection that has no user may run anything.
    #[must_use]
    pub fn may_run(self, argv: ArgVec<'_>) -> bool {
        let name = call!(RedisModule_GetClientUserNameById(self.raw, self.client_id().0));
        if name.is_null() {
            return true;
        }
        let user = User::named(name);
        call!(RedisModule_FreeString(self.raw, name));
        user.is_some_and(|user| user.may_run(argv))
    }

    /// The same while the replies of one turn are made, in which no permission changes. A crowd that asked
    /// for the same as the same user is checked once.
    #[must_use]
    pub(super) fn may_still_run(self, argv: ArgVec<'_>) -> bool {
        let name = call!(RedisModule_GetClientUserNameById(self.raw, self.client_id().0));
        if name.is_null() {
            return true;
        }
        let user = bytes_of(name);
        let known = CHECKED
            .with(|checked| checked.as_ref().filter(|checked| checked.is(user, argv)).map(|checked| checked.may));
        let may = known.unwrap_or_else(|| {
            let may = User::named(name).is_some_and(|user| user.may_run(argv));
            let checked = Checked::new(user, argv, may);
            CHECKED.with(|last| *last = checked);
            may
        });
        call!(RedisModule_FreeString(self.raw, name));
        may
    }

    /// Whether a user calls who is no connection's, as in a script. Redis 7.0 crashes if it is asked
    /// for the name where there is none, so that is found out by a call that needs one. HELLO is a
    /// command that no user can be denied.
    fn has_user(self) -> bool {
        let reply = call!(RedisModule_Call(self.raw, c"HELLO".as_ptr(), c"C".as_ptr()));
        if reply.is_null() {
            return std::io::Error::last_os_error().raw_os_error() != Some(libc::ENOTSUP);
        }
        call!(RedisModule_FreeCallReply(reply));
        true
    }
}

/// What was found out last about a user and a command.
struct Checked {
    user: Box<[u8]>,
    words: Vec<Box<[u8]>>,
    may: bool,
}

static CHECKED: MainThread<Option<Checked>> = MainThread::new();

/// Longer commands are checked each time: to remember one costs about as much.
const WORDS_MAX: usize = 12;
const WORD_BYTES_MAX: usize = 1_024;

impl Checked {
    fn new(user: &[u8], argv: ArgVec<'_>, may: bool) -> Option<Self> {
        let is_short = argv.len() <= WORDS_MAX && argv.iter().all(|word| word.bytes().len() <= WORD_BYTES_MAX);
        is_short.then(|| Self { user: user.into(), words: argv.iter().map(|word| word.bytes().into()).collect(), may })
    }

    fn is(&self, user: &[u8], argv: ArgVec<'_>) -> bool {
        *self.user == *user
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
        (!user.is_null()).then_some(Self(user))
    }

    fn may_run(&self, argv: ArgVec<'_>) -> bool {
        let argc = c_int::try_from(argv.len()).unwrap_or(c_int::MAX);
        call!(RedisModule_ACLCheckCommandPermissions(self.0, argv.all().as_ptr().cast_mut(), argc)) == OK
    }

    /// True if it may do that to any key whatever. A pattern for all keys covers the empty name and
    /// a random one, or every byte alone and repeated; one with any text in it covers neither. Two
    /// checks for most users, at most some hundreds.
    #[must_use]
    pub fn may_any(&self, ctx: Ctx<'_>, change: Change) -> bool {
        let may = |name: &[u8]| self.may(change, ctx.string(name).arg());
        let (random, longer): ([u8; 32], u8) = rand::random();
        let len = 17 + usize::from(longer % 16);
        let may_random = may(&random);
        may_random && (may(b"") || (0..=u8::MAX).all(|byte| may(&[byte]) && may(&vec![byte; len])))
    }

    /// True if it may do that to the key `name`.
    #[must_use]
    pub fn may(&self, change: Change, name: Arg<'_>) -> bool {
        let flag = match change {
            Change::Delete => raw::REDISMODULE_CMD_KEY_DELETE,
            Change::Update => raw::REDISMODULE_CMD_KEY_UPDATE,
        };
        call!(RedisModule_ACLCheckKeyPermissions(self.0, name.raw, flag as c_int)) == OK
    }
}

impl Drop for User {
    fn drop(&mut self) {
        call!(RedisModule_FreeModuleUser(self.0));
    }
}
