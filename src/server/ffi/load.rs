//! Loading: the module introduces itself to the server, and refuses to load if anything it needs
//! is refused. Every result is checked: the server answers a mistyped flag with an error code and
//! nothing else.

use super::commands::Asked;
use super::context::{bytes_of, unix_now, Ctx, Level};
use super::entry_point::{guarded, install_panic_hook};
use super::{events, types, OK};
use crate::engine::cache::entry::Entry;
use crate::engine::limit::Limits;
use crate::engine::lock::Lock;
use crate::server::config::{self, Setting};
use crate::server::info;
use crate::server::limit::rows::CL_THROTTLE;
use crate::server::state::STATE;
use crate::server::table::{self, Access, ArgDoc, ArgKind, Command, Keys, Times};
use redis_module::raw;
use std::ffi::{c_char, c_int, c_longlong, c_void, CString};
use std::ptr::{null, null_mut};
use std::sync::atomic::{AtomicPtr, Ordering::Relaxed};

const MODULE_NAME: &std::ffi::CStr = c"cacheguard";
const MODULE_VERSION: c_int = 1;
const ERR: c_int = raw::REDISMODULE_ERR as c_int;

/// Called by the server when it loads the module.
///
/// # Safety
/// Called by the server only, with the arguments of `loadmodule`.
#[no_mangle]
pub unsafe extern "C" fn RedisModule_OnLoad(
    ctx: *mut raw::RedisModuleCtx,
    argv: *mut *mut raw::RedisModuleString,
    argc: c_int,
) -> c_int {
    let api = raw::REDISMODULE_APIVER_1 as c_int;
    // SAFETY: the context is the server's; this fills in the function pointers all else needs, so
    // nothing, not even an allocation, may come before it.
    if unsafe { raw::Export_RedisModule_Init(ctx, MODULE_NAME.as_ptr(), MODULE_VERSION, api) } != OK {
        return ERR;
    }
    install_panic_hook();
    guarded(ERR, || {
        // SAFETY: the server passes `argc` arguments.
        let argv = unsafe {
            std::slice::from_raw_parts(
                if argc == 0 { std::ptr::NonNull::dangling().as_ptr() } else { argv },
                argc as usize,
            )
        };
        match introduce(ctx, argv) {
            Ok(()) => OK,
            Err(reason) => {
                Ctx::new(ctx).log(Level::Warning, &format!("cacheguard does not load: {reason}"));
                ERR
            }
        }
    })
}

fn introduce(ctx: *mut raw::RedisModuleCtx, argv: &[*mut raw::RedisModuleString]) -> Result<(), String> {
    if !has!(RedisModule_SetCommandInfo) || !has!(RedisModule_LoadConfigs) {
        return Err("the server is too old: Redis 7.0 or Valkey 7.2 is needed".to_owned());
    }
    // Keys count as modified when `keyspace` says so, not whenever they were open for writing.
    let mut options = raw::REDISMODULE_OPTIONS_HANDLE_IO_ERRORS | raw::REDISMODULE_OPTION_NO_IMPLICIT_SIGNAL_MODIFIED;
    if Ctx::new(ctx).valkey_version().is_some_and(|(major, _)| major >= 9) {
        options |= VALKEY_OPTION_SLOT_MIGRATION;
    }
    call!(RedisModule_SetModuleOptions(ctx, options as c_int));
    config::load_arguments(argv.iter().map(|arg| bytes_of(*arg)))?;
    accept(types::register::<Entry>(ctx), "the type cg-cached")?;
    accept(types::register::<Limits>(ctx), "the type cg-limits")?;
    accept(types::register::<Lock>(ctx), "the type cg-locked")?;
    let situation = Ctx::new(ctx).situation();
    let now = unix_now();
    // An operator may have renamed either, or taken it away.
    let deletions = [(c"UNLINK", &b"unlink"[..]), (c"DEL", b"del")].into_iter();
    let deletion = deletions.filter(|(name, built)| Ctx::new(ctx).is_command(name, built)).map(|(name, _)| name).next();
    let has_get = Ctx::new(ctx).is_command(c"GET", b"get");
    let persist = Ctx::new(ctx).is_command(c"PERSIST", b"persist").then_some(c"PERSIST");
    if matches!(Ctx::new(ctx).describe_command(b"ping"), Asked::Silent) {
        let text =
            "COMMAND was renamed or disabled: writes by other commands that were renamed too may end no lease; use \
                    CACHE.DEL to invalidate";
        Ctx::new(ctx).log(Level::Warning, text);
    }
    STATE.with(|state| {
        (state.in_cluster, state.follows) = (situation.is_cluster(), situation.is_replica());
        state.deletion = deletion.unwrap_or(c"CACHE.DEL");
        (state.has_get, state.persist) = (has_get, persist);
        state.locks.fences.begin(now);
    });
    let category =
        has!(RedisModule_AddACLCategory) && call!(RedisModule_AddACLCategory(ctx, MODULE_NAME.as_ptr())) == OK;
    for command in table::commands() {
        accept(register_command(ctx, command, category), &command.name.to_string_lossy())?;
    }
    for setting in config::SETTINGS {
        accept(register_setting(ctx, setting), &setting.name.to_string_lossy())?;
    }
    accept(register_early_beta(ctx), "early-beta")?;
    accept(register_cl_throttle(ctx), "cl-throttle")?;
    accept(call!(RedisModule_LoadConfigs(ctx)) == OK, "the configuration: see the line above this one")?;
    // Known only now; and where another module has the command, it keeps it.
    if config::cl_throttle() && !Ctx::new(ctx).has_command(CL_THROTTLE.name.to_bytes()) {
        accept(register_command(ctx, &CL_THROTTLE, category), "cl.throttle")?;
    }
    accept(call!(RedisModule_RegisterInfoFunc(ctx, Some(inform))) == OK, "INFO")?;
    accept(events::subscribe(ctx), "server events")
}

/// Valkey 9 moves slots with the commands that rewrite the AOF, and refuses to while a module is
/// loaded that does not say it can. Other servers use the bit for something else.
const VALKEY_OPTION_SLOT_MIGRATION: u32 = 1 << 5;

fn accept(accepted: bool, what: &str) -> Result<(), String> {
    accepted.then_some(()).ok_or(format!("the server refused {what}"))
}

fn register_command(ctx: *mut raw::RedisModuleCtx, row: &Command, category: bool) -> bool {
    let (name, flags) = (row.name.as_ptr(), row.flags.as_ptr());
    let (first, last, step) = match row.keys {
        Keys::None => (0, 0, 0),
        Keys::First(_) => (1, 1, 1),
        Keys::All(_) => (1, -1, 1),
        // Beyond this old form; the key specification below says it.
        Keys::Counted(_) => (0, 0, 0),
    };
    if call!(RedisModule_CreateCommand(ctx, name, Some(row.enter), flags, first, last, step)) != OK {
        return false;
    }
    let command = call!(RedisModule_GetCommand(ctx, name));
    if command.is_null() || !describe(command, row) {
        return false;
    }
    // Redis 7.0 does not know categories of modules' commands, 7.2 none of a module's own.
    if !has!(RedisModule_SetCommandACLCategories) {
        return true;
    }
    let own = if category { "cacheguard " } else { "" };
    let categories = CString::new(format!("{own}{}", row.categories.to_string_lossy())).unwrap_or_default();
    call!(RedisModule_SetCommandACLCategories(command, categories.as_ptr())) == OK
}

static INFO_VERSION: InfoVersion = InfoVersion(raw::RedisModuleCommandInfoVersion {
    version: 1,
    sizeof_historyentry: size_of::<raw::RedisModuleCommandHistoryEntry>(),
    sizeof_keyspec: size_of::<raw::RedisModuleCommandKeySpec>(),
    sizeof_arg: size_of::<raw::RedisModuleCommandArg>(),
});

struct InfoVersion(raw::RedisModuleCommandInfoVersion);

// SAFETY: plain numbers, never changed.
unsafe impl Sync for InfoVersion {}

/// Tells the server the arity, keys and documentation of a command. It copies what it is given.
fn describe(command: *mut raw::RedisModuleCommand, row: &Command) -> bool {
    // SAFETY: all fields of this plain structure may be zero; a zeroed one ends the list.
    let mut specs: [raw::RedisModuleCommandKeySpec; 2] = unsafe { std::mem::zeroed() };
    let [spec, _] = &mut specs;
    specify_keys(spec, row.keys);
    let mut nested = Vec::new();
    let mut args = arguments(row.args, &mut nested);
    // SAFETY: all fields of this plain structure may be zero.
    let mut info: raw::RedisModuleCommandInfo = unsafe { std::mem::zeroed() };
    info.version = &INFO_VERSION.0;
    info.summary = row.summary.as_ptr();
    info.complexity = row.complexity.as_ptr();
    info.since = row.since.as_ptr();
    info.tips = row.tips.map_or(null(), |tips| tips.as_ptr());
    info.arity = row.arity;
    info.key_specs = if matches!(row.keys, Keys::None) { null_mut() } else { specs.as_mut_ptr() };
    info.args = args.as_mut_ptr();
    call!(RedisModule_SetCommandInfo(command, &info)) == OK
}

/// Says where the keys are and what is done to them.
fn specify_keys(spec: &mut raw::RedisModuleCommandKeySpec, keys: Keys) {
    let (Keys::First(access) | Keys::All(access) | Keys::Counted(access)) = keys else { return };
    let flags = match access {
        Access::Read => raw::REDISMODULE_CMD_KEY_RO | raw::REDISMODULE_CMD_KEY_ACCESS,
        Access::ReadWrite => {
            raw::REDISMODULE_CMD_KEY_RW | raw::REDISMODULE_CMD_KEY_ACCESS | raw::REDISMODULE_CMD_KEY_UPDATE
        }
        Access::Overwrite => raw::REDISMODULE_CMD_KEY_OW | raw::REDISMODULE_CMD_KEY_UPDATE,
        Access::Delete => raw::REDISMODULE_CMD_KEY_RM | raw::REDISMODULE_CMD_KEY_DELETE,
    };
    spec.flags = flags.into();
    spec.begin_search_type = raw::RedisModuleKeySpecBeginSearchType_REDISMODULE_KSPEC_BS_INDEX;
    spec.bs.index.pos = 1;
    if let Keys::Counted(_) = keys {
        spec.find_keys_type = raw::RedisModuleKeySpecFindKeysType_REDISMODULE_KSPEC_FK_KEYNUM;
        spec.fk.keynum.keynumidx = 0;
        spec.fk.keynum.firstkey = 1;
        spec.fk.keynum.keystep = 1;
        return;
    }
    spec.find_keys_type = raw::RedisModuleKeySpecFindKeysType_REDISMODULE_KSPEC_FK_RANGE;
    spec.fk.range.lastkey = if matches!(keys, Keys::All(_)) { -1 } else { 0 };
    spec.fk.range.keystep = 1;
    spec.fk.range.limit = 0;
}

/// The server's form of a list of arguments, ended by a zeroed one. `nested` keeps inner lists
/// alive.
fn arguments(docs: &[ArgDoc], nested: &mut Vec<Vec<raw::RedisModuleCommandArg>>) -> Vec<raw::RedisModuleCommandArg> {
    let mut list = Vec::with_capacity(docs.len() + 1);
    for doc in docs {
        let mut subargs = null_mut();
        if let ArgKind::OneOf(inner) | ArgKind::Block(inner) = doc.kind {
            let mut inner = arguments(inner, nested);
            subargs = inner.as_mut_ptr();
            nested.push(inner);
        }
        list.push(raw::RedisModuleCommandArg {
            name: doc.name.as_ptr(),
            type_: match doc.kind {
                ArgKind::Key => raw::RedisModuleCommandArgType_REDISMODULE_ARG_TYPE_KEY,
                ArgKind::Bytes => raw::RedisModuleCommandArgType_REDISMODULE_ARG_TYPE_STRING,
                ArgKind::Integer => raw::RedisModuleCommandArgType_REDISMODULE_ARG_TYPE_INTEGER,
                ArgKind::Float => raw::RedisModuleCommandArgType_REDISMODULE_ARG_TYPE_DOUBLE,
                ArgKind::UnixTime => raw::RedisModuleCommandArgType_REDISMODULE_ARG_TYPE_UNIX_TIME,
                ArgKind::Token => raw::RedisModuleCommandArgType_REDISMODULE_ARG_TYPE_PURE_TOKEN,
                ArgKind::OneOf(_) => raw::RedisModuleCommandArgType_REDISMODULE_ARG_TYPE_ONEOF,
                ArgKind::Block(_) => raw::RedisModuleCommandArgType_REDISMODULE_ARG_TYPE_BLOCK,
            },
            key_spec_index: if matches!(doc.kind, ArgKind::Key) { 0 } else { -1 },
            token: doc.token.map_or(null(), |token| token.as_ptr()),
            summary: null(),
            since: null(),
            flags: match doc.times {
                Times::Once => raw::REDISMODULE_CMD_ARG_NONE,
                Times::Optional => raw::REDISMODULE_CMD_ARG_OPTIONAL,
                Times::Many => raw::REDISMODULE_CMD_ARG_MULTIPLE,
            } as c_int,
            deprecated_since: null(),
            subargs,
            display_text: null(),
        });
    }
    // SAFETY: all fields of this plain structure may be zero.
    list.push(unsafe { std::mem::zeroed() });
    list
}

fn register_setting(ctx: *mut raw::RedisModuleCtx, setting: &'static Setting) -> bool {
    let privdata: *const Setting = setting;
    let done = call!(RedisModule_RegisterNumericConfig(
        ctx,
        setting.name.as_ptr(),
        // What `loadmodule` said is the default; the configuration file overrules it.
        i64::try_from(setting.get()).unwrap_or(setting.default),
        raw::REDISMODULE_CONFIG_DEFAULT,
        setting.min,
        setting.max,
        Some(get_setting),
        Some(set_setting),
        None,
        privdata.cast_mut().cast()
    ));
    done == OK
}

unsafe extern "C" fn get_setting(_name: *const c_char, privdata: *mut c_void) -> c_longlong {
    // SAFETY: the server passes what `register_setting` gave it.
    let setting = unsafe { &*privdata.cast::<Setting>() };
    i64::try_from(setting.get()).unwrap_or(i64::MAX)
}

unsafe extern "C" fn set_setting(
    _name: *const c_char,
    value: c_longlong,
    privdata: *mut c_void,
    _error: *mut *mut raw::RedisModuleString,
) -> c_int {
    // SAFETY: the server passes what `register_setting` gave it.
    let setting = unsafe { &*privdata.cast::<Setting>() };
    setting.set(value);
    OK
}

/// A number with a fraction is a string to the server. The string it is shown must outlive the
/// call, so one is kept.
static EARLY_BETA_SHOWN: AtomicPtr<raw::RedisModuleString> = AtomicPtr::new(null_mut());

fn register_early_beta(ctx: *mut raw::RedisModuleCtx) -> bool {
    let default = CString::new(config::early_beta().to_string()).unwrap_or_default();
    let done = call!(RedisModule_RegisterStringConfig(
        ctx,
        config::EARLY_BETA_NAME.as_ptr(),
        default.as_ptr(),
        raw::REDISMODULE_CONFIG_DEFAULT,
        Some(get_early_beta),
        Some(set_early_beta),
        None,
        null_mut()
    ));
    done == OK
}

unsafe extern "C" fn get_early_beta(_name: *const c_char, _privdata: *mut c_void) -> *mut raw::RedisModuleString {
    let text = config::early_beta().to_string();
    let string = call!(RedisModule_CreateString(null_mut(), text.as_ptr().cast(), text.len()));
    let previous = EARLY_BETA_SHOWN.swap(string, Relaxed);
    if !previous.is_null() {
        call!(RedisModule_FreeString(null_mut(), previous));
    }
    string
}

unsafe extern "C" fn set_early_beta(
    _name: *const c_char,
    value: *mut raw::RedisModuleString,
    _privdata: *mut c_void,
    error: *mut *mut raw::RedisModuleString,
) -> c_int {
    if config::set_early_beta(bytes_of(value)) {
        return OK;
    }
    let text = "early-beta must be a number of at least 0";
    let message = call!(RedisModule_CreateString(null_mut(), text.as_ptr().cast(), text.len()));
    // SAFETY: the server passes a place for the message, and frees it.
    unsafe { *error = message };
    ERR
}

fn register_cl_throttle(ctx: *mut raw::RedisModuleCtx) -> bool {
    let done = call!(RedisModule_RegisterBoolConfig(
        ctx,
        config::CL_THROTTLE_NAME.as_ptr(),
        config::cl_throttle().into(),
        raw::REDISMODULE_CONFIG_IMMUTABLE,
        Some(get_cl_throttle),
        Some(set_cl_throttle),
        None,
        null_mut()
    ));
    done == OK
}

unsafe extern "C" fn get_cl_throttle(_name: *const c_char, _privdata: *mut c_void) -> c_int {
    config::cl_throttle().into()
}

unsafe extern "C" fn set_cl_throttle(
    _name: *const c_char,
    value: c_int,
    _privdata: *mut c_void,
    _error: *mut *mut raw::RedisModuleString,
) -> c_int {
    config::set_cl_throttle(if value == 0 { b"no" } else { b"yes" });
    OK
}

unsafe extern "C" fn inform(ctx: *mut raw::RedisModuleInfoCtx, crash_report: c_int) {
    // A crash may have come from within the state.
    if crash_report != 0 {
        return;
    }
    guarded((), || {
        call!(RedisModule_InfoAddSection(ctx, null()));
        for (name, value) in info::fields() {
            call!(RedisModule_InfoAddFieldULongLong(ctx, name.as_ptr(), value));
        }
    });
}
