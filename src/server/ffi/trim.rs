//! Slots of a cluster that Redis empties after they moved away at one stroke (8.4 and later).
//!
//! It drops them whole, in the background and without telling any value, unless a module has asked
//! to hear of each key. So the module does: the server then deletes key by key, a little at a time,
//! and every type is told as of any deletion. Keys of such a slot are out of reach from the first
//! moment on, also for modules. Should the server drop slots whole all the same, an event says so.
//!
//! The numbers mean other things to Valkey, which moves slots in another way, so only Redis is asked.

use super::context::{server_version, Ctx};
use super::entry_point::guarded;
use super::{events, OK};
use crate::engine::cluster::SlotRanges;
use crate::server::cluster;
use redis_module::raw;
use std::ffi::{c_char, c_int, c_void};

const VERSION_8_4: u32 = 0x0008_0400;

/// Subscribes where there is something to hear; false if the server refuses.
pub(super) fn subscribe(ctx: Ctx<'_>) -> bool {
    if !ctx.situation().is_cluster() || server_version() < VERSION_8_4 || ctx.valkey_version().is_some() {
        return true;
    }
    let class = raw::REDISMODULE_NOTIFY_KEY_TRIMMED;
    call!(RedisModule_SubscribeToKeyspaceEvents(ctx.raw, class, Some(key_trimmed))) == OK
        && events::hear(ctx.raw, raw::REDISMODULE_EVENT_CLUSTER_SLOT_MIGRATION_TRIM, Some(trims))
}

/// Its value was told already.
unsafe extern "C" fn key_trimmed(
    _ctx: *mut raw::RedisModuleCtx,
    _class: c_int,
    _event: *const c_char,
    _key: *mut raw::RedisModuleString,
) -> c_int {
    OK
}

unsafe extern "C" fn trims(
    ctx: *mut raw::RedisModuleCtx,
    _event: raw::RedisModuleEvent,
    stage: u64,
    data: *mut c_void,
) {
    guarded((), || {
        if stage == raw::REDISMODULE_SUBEVENT_CLUSTER_SLOT_MIGRATION_TRIM_COMPLETED {
            return;
        }
        // SAFETY: the server passes this structure with this event.
        let slots = unsafe { slots(&*data.cast::<raw::RedisModuleClusterSlotMigrationTrimInfo>()) };
        cluster::slots_left(Ctx::new(ctx), &slots);
        if stage == raw::REDISMODULE_SUBEVENT_CLUSTER_SLOT_MIGRATION_TRIM_BACKGROUND {
            cluster::slots_dropped(&slots);
        }
    });
}

/// The slots that an event speaks of.
///
/// # Safety
/// `info` is as the server passed it.
unsafe fn slots(info: &raw::RedisModuleClusterSlotMigrationTrimInfo) -> SlotRanges {
    // SAFETY: the server passes an array of as many ranges as it says.
    let ranges = unsafe {
        let array = &*info.slots;
        array.ranges.as_slice(usize::try_from(array.num_ranges).unwrap_or(0))
    };
    SlotRanges::new(ranges.iter().map(|range| range.start..=range.end))
}
