//! What the calling user may do to keys that it does not name.

use super::commands::Reply;
use super::context::{Arg, Ctx};
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

impl User {
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
