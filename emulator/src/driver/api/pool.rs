//! Memory pools: they account for what is allocated from them; reserving memory ahead changes nothing here.

use crate::driver::raw::{In, Out};
use crate::driver::state::Pool;
use crate::driver::{Refusal, abi, codes};

api! {
    fn cuMemPoolCreate(pool: Out<u64>, properties: In<abi::CUmemPoolProps>) Context |call| {
        let properties = properties.get()?;
        if pool.is_null() {
            return Err(codes::INVALID_VALUE.into());
        }
        let device = usize::try_from(properties.location.id).ok().filter(|&d| d < call.devices.len());
        let on_device = properties.location.kind == abi::location_type::DEVICE;
        if properties.alloc_type != abi::allocation_type::PINNED
            || !on_device
            || properties.handle_types != abi::handle_type::NONE
        {
            return Err(Refusal::new(codes::NOT_SUPPORTED, "pools that are not a device's own memory, or shared"));
        }
        let device = device.ok_or(Refusal::from(codes::INVALID_DEVICE))?;
        let handle = call.pools.insert(Pool::new(device, false));
        pool.set(handle)
    }

    fn cuMemPoolDestroy(pool: u64) Init |call| {
        if call.pools.get(pool).is_none_or(|pool| pool.built_in) {
            return Err(codes::INVALID_VALUE.into());
        }
        for device in call.devices.iter_mut().filter(|device| device.pool == pool) {
            device.pool = device.default_pool;
        }
        call.pools.remove(pool);
        Ok(())
    }

    fn cuMemPoolTrimTo(pool: u64, _keep: usize) Init |call| {
        call.pools.get(pool).map(drop).ok_or_else(|| codes::INVALID_VALUE.into())
    }

    fn cuMemPoolSetAttribute(pool: u64, attribute: u32, value: usize) Init |call| {
        use abi::pool_attribute as a;
        let pool = call.pools.get_mut(pool).ok_or(Refusal::from(codes::INVALID_VALUE))?;
        if value == 0 {
            return Err(codes::INVALID_VALUE.into());
        }
        let bytes = crate::driver::raw::read_host(value, width(attribute)?);
        let value = bytes.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte));
        match attribute {
            a::RESERVED_MEM_HIGH | a::USED_MEM_HIGH if value == 0 => pool.used_high = pool.used,
            a::REUSE_FOLLOW_EVENT_DEPENDENCIES
            | a::REUSE_ALLOW_OPPORTUNISTIC
            | a::REUSE_ALLOW_INTERNAL_DEPENDENCIES
            | a::RELEASE_THRESHOLD => _ = pool.attributes.insert(attribute, value),
            _ => return Err(codes::INVALID_VALUE.into()),
        }
        Ok(())
    }

    fn cuMemPoolGetAttribute(pool: u64, attribute: u32, value: usize) Init |call| {
        use abi::pool_attribute as a;
        let pool = call.pools.get(pool).ok_or(Refusal::from(codes::INVALID_VALUE))?;
        let set = |default| pool.attributes.get(&attribute).copied().unwrap_or(default);
        let found = match attribute {
            a::REUSE_FOLLOW_EVENT_DEPENDENCIES
            | a::REUSE_ALLOW_OPPORTUNISTIC
            | a::REUSE_ALLOW_INTERNAL_DEPENDENCIES => set(1),
            a::RELEASE_THRESHOLD => set(0),
            a::RESERVED_MEM_CURRENT | a::USED_MEM_CURRENT => pool.used,
            _ => pool.used_high,
        };
        if value == 0 {
            return Err(codes::INVALID_VALUE.into());
        }
        crate::driver::raw::write_host(value, &found.to_le_bytes()[..width(attribute)?]);
        Ok(())
    }
}

/// Bytes of an attribute.
fn width(attribute: u32) -> Result<usize, Refusal> {
    use abi::pool_attribute as a;
    match attribute {
        a::REUSE_FOLLOW_EVENT_DEPENDENCIES..=a::REUSE_ALLOW_INTERNAL_DEPENDENCIES => Ok(4),
        a::RELEASE_THRESHOLD..=a::USED_MEM_HIGH => Ok(8),
        _ => Err(Refusal::new(codes::NOT_SUPPORTED, format!("pool attribute {attribute}"))),
    }
}
