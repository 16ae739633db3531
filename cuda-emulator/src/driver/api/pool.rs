//! Memory pools: names for allocations; nothing is held back after a free.

use super::context::check_device;
use crate::driver::call::{Handle, HostPtr, Out, Outcome, Required, fail, invalid, unsupported};
use crate::driver::objects::{Kind, Pool, find};
use crate::driver::result::CUresult;
use crate::driver::state::{Driver, entry};

/// The device's default pool.
fn default_pool(driver: &mut Driver) -> Handle {
    if let Some((&handle, _)) = driver.pools.iter().find(|(_, p)| p.is_default) {
        return handle;
    }
    let handle = driver.handle(Kind::Pool);
    driver.pools.insert(
        handle,
        Pool {
            is_default: true,
            settings: [1, 1, 1, 0],
        },
    );
    handle
}

/// The device's default pool.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuDeviceGetDefaultMemPool(out: Out<'_, Handle>, device: i32) -> CUresult {
    entry("cuDeviceGetDefaultMemPool", |driver| {
        let out = out.need("pool_out")?;
        check_device(device)?;
        out.write(default_pool(driver));
        Ok(())
    })
}

/// The device's current pool, which is always the default one.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuDeviceGetMemPool(out: Out<'_, Handle>, device: i32) -> CUresult {
    cuDeviceGetDefaultMemPool(out, device)
}

/// Accepts the default pool only.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuDeviceSetMemPool(device: i32, pool: Handle) -> CUresult {
    entry("cuDeviceSetMemPool", |driver| {
        check_device(device)?;
        match find(&mut driver.pools, pool, "memory pool")?.is_default {
            true => Ok(()),
            false => unsupported("a current pool other than the default one"),
        }
    })
}

/// A new pool.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuMemPoolCreate(out: Out<'_, Handle>, properties: HostPtr) -> CUresult {
    entry("cuMemPoolCreate", |driver| {
        let out = out.need("pool")?;
        if properties.is_null() {
            return invalid("`poolProps` is a null pointer");
        }
        let handle = driver.handle(Kind::Pool);
        driver.pools.insert(
            handle,
            Pool {
                is_default: false,
                settings: [1, 1, 1, 0],
            },
        );
        out.write(handle);
        Ok(())
    })
}

/// Ends a pool; its allocations live on.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuMemPoolDestroy(pool: Handle) -> CUresult {
    entry("cuMemPoolDestroy", |driver| {
        if find(&mut driver.pools, pool, "memory pool")?.is_default {
            return invalid("the default pool cannot be destroyed");
        }
        driver.pools.remove(&pool);
        Ok(())
    })
}

/// Nothing is held back, so there is nothing to give back.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuMemPoolTrimTo(pool: Handle, _keep: usize) -> CUresult {
    entry("cuMemPoolTrimTo", |driver| {
        find(&mut driver.pools, pool, "memory pool").map(|_| ())
    })
}

/// Bytes of an attribute's value: 1 to 3 are an int, the rest 64 bits.
fn width(attribute: u32) -> Outcome<usize> {
    match attribute {
        1..=3 => Ok(4),
        4..=8 => Ok(8),
        _ => invalid(format!("{attribute} is no CUmemPool_attribute (1 to 8)")),
    }
}

/// A setting, or the bytes in use (reserved is the same here, and so is the high-water mark after everything submitted is done).
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuMemPoolGetAttribute(
    pool: Handle,
    attribute: u32,
    value: HostPtr,
) -> CUresult {
    entry("cuMemPoolGetAttribute", |driver| {
        let width = width(attribute)?;
        let is_default = find(&mut driver.pools, pool, "memory pool")?.is_default;
        let number = match attribute {
            1..=4 => find(&mut driver.pools, pool, "memory pool")?.settings[attribute as usize - 1],
            6 | 8 => {
                return fail(CUresult::NOT_SUPPORTED, "high-water marks of memory pools");
            }
            _ => {
                let own = |p: Option<Handle>| p == Some(pool) || (p.is_none() && is_default);
                driver
                    .allocations
                    .values()
                    .filter(|a| own(a.pool))
                    .map(|a| a.bytes)
                    .sum()
            }
        };
        value.write(&number.to_le_bytes()[..width])
    })
}

/// Changes a setting; high-water marks can only be reset to 0, which does nothing.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuMemPoolSetAttribute(
    pool: Handle,
    attribute: u32,
    value: HostPtr,
) -> CUresult {
    entry("cuMemPoolSetAttribute", |driver| {
        let width = width(attribute)?;
        let mut bytes = [0; 8];
        value.read(&mut bytes[..width])?;
        let number = u64::from_le_bytes(bytes);
        let pool = find(&mut driver.pools, pool, "memory pool")?;
        match attribute {
            1..=4 => pool.settings[attribute as usize - 1] = number,
            6 | 8 if number == 0 => {}
            _ => return invalid(format!("attribute {attribute} cannot be set to {number}")),
        }
        Ok(())
    })
}
