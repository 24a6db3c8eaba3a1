//! Cards.

use crate::driver::raw::{Out, Text, write_text};
use crate::driver::{Answer, Call, Refusal, abi, attributes, codes};
use crate::exec::Card;
use std::ffi::{c_int, c_uint};

api! {
    fn cuDeviceGet(device: Out<c_int>, ordinal: c_int) Init |call| {
        call.device(ordinal)?;
        device.set(ordinal)
    }

    fn cuDeviceGetCount(count: Out<c_int>) Init |call| {
        count.set(call.devices.len() as c_int)
    }

    fn cuDeviceGetName(name: usize, len: c_int, device: c_int) Init |call| {
        let text = card(call, device)?.name.clone();
        let len = usize::try_from(len).ok().filter(|&len| len > 0 && name != 0);
        write_text(name, len.ok_or(Refusal::from(codes::INVALID_VALUE))?, &text);
        Ok(())
    }

    fn cuDeviceGetUuid(uuid: Out<abi::CUuuid>, device: c_int) Init |call| {
        uuid.set(identity(call, device)?)
    }

    fn cuDeviceGetUuid_v2(uuid: Out<abi::CUuuid>, device: c_int) Init |call| {
        uuid.set(identity(call, device)?)
    }

    fn cuDeviceGetAttribute(value: Out<c_int>, attribute: u32, device: c_int) Init |call| {
        let found = match (attributes::value(card(call, device)?, attribute), attribute) {
            (Some(_), attributes::PCI_BUS_ID) => Some(bus(device)),
            (found, _) => found,
        };
        value.set(found.ok_or_else(|| {
            Refusal::new(codes::INVALID_VALUE, format!("there is no device attribute {attribute}"))
        })?)
    }

    fn cuDeviceTotalMem_v2(bytes: Out<usize>, device: c_int) Init |call| {
        bytes.set(card(call, device)?.memory_bytes as usize)
    }

    fn cuDeviceComputeCapability(major: Out<c_int>, minor: Out<c_int>, device: c_int) Init |call| {
        let arch = card(call, device)?.arch as c_int;
        major.set(arch / 10)?;
        minor.set(arch % 10)
    }

    fn cuDeviceGetProperties(properties: Out<abi::CUdevprop>, device: c_int) Init |call| {
        let card = card(call, device)?;
        let value = |attribute| attributes::value(card, attribute).unwrap_or(0);
        properties.set(abi::CUdevprop {
            max_threads_per_block: value(1),
            max_threads_dim: [value(2), value(3), value(4)],
            max_grid_size: [value(5), value(6), value(7)],
            shared_mem_per_block: value(8),
            total_constant_memory: value(9),
            simd_width: value(10),
            mem_pitch: value(11),
            regs_per_block: value(12),
            clock_rate: value(13),
            texture_align: value(14),
        })
    }

    fn cuDeviceGetPCIBusId(text: usize, len: c_int, device: c_int) Init |call| {
        card(call, device)?;
        let len = usize::try_from(len).ok().filter(|&len| len >= 13 && text != 0);
        write_text(text, len.ok_or(Refusal::from(codes::INVALID_VALUE))?, &bus_id(device));
        Ok(())
    }

    fn cuDeviceGetByPCIBusId(device: Out<c_int>, text: Text) Init |call| {
        let text = text.get()?;
        let count = call.devices.len() as c_int;
        let found = (0..count).find(|&device| location(&text) == location(&bus_id(device)));
        device.set(found.ok_or(Refusal::from(codes::INVALID_DEVICE))?)
    }

    fn cuDeviceCanAccessPeer(can: Out<c_int>, device: c_int, peer: c_int) Init |call| {
        call.device(device)?;
        call.device(peer)?;
        can.set(0)
    }

    fn cuDevicePrimaryCtxRetain(context: Out<u64>, device: c_int) Init |call| {
        let found = call.device(device)?;
        if let Some(code) = found.lost {
            return Err(Refusal::new(code, "the device was lost"));
        }
        if context.is_null() {
            return Err(codes::INVALID_VALUE.into());
        }
        let (primary, flags) = (found.primary, found.flags);
        let handle = primary.unwrap_or_else(|| call.new_context(device as usize, true, flags));
        context.set(handle)?;
        let device = call.device(device)?;
        device.primary = Some(handle);
        device.retained += 1;
        Ok(())
    }

    fn cuDevicePrimaryCtxRelease_v2(device: c_int) Init |call| {
        let found = call.device(device)?;
        // After a reset there is nothing to destroy; what is retained must be released all the same.
        found.retained = found.retained.checked_sub(1).ok_or(Refusal::from(codes::INVALID_CONTEXT))?;
        if found.retained == 0
            && let Some(handle) = found.primary
        {
            call.end_context(handle);
        }
        Ok(())
    }

    fn cuDevicePrimaryCtxReset_v2(device: c_int) Init |call| {
        // What is retained stays so: the next call makes the context anew.
        if let Some(handle) = call.device(device)?.primary {
            call.end_context(handle);
        }
        Ok(())
    }

    fn cuDevicePrimaryCtxGetState(device: c_int, flags: Out<c_uint>, active: Out<c_int>) Init |call| {
        let device = call.device(device)?;
        flags.set(device.flags)?;
        active.set(device.primary.is_some().into())
    }

    fn cuDevicePrimaryCtxSetFlags_v2(device: c_int, flags: c_uint) Init |call| {
        if flags & !abi::context_flag::FLAGS_MASK != 0 {
            return Err(codes::INVALID_VALUE.into());
        }
        let device = call.device(device)?;
        device.flags = flags;
        let primary = device.primary;
        if let Some(context) = primary.and_then(|handle| call.contexts.get_mut(handle)) {
            context.flags = flags;
        }
        Ok(())
    }

    fn cuDeviceGetDefaultMemPool(pool: Out<u64>, device: c_int) Init |call| {
        pool.set(call.device(device)?.default_pool)
    }

    fn cuDeviceGetMemPool(pool: Out<u64>, device: c_int) Init |call| {
        pool.set(call.device(device)?.pool)
    }

    fn cuDeviceSetMemPool(device: c_int, pool: u64) Init |call| {
        if call.pools.get(pool).is_none_or(|pool| pool.device as c_int != device) {
            return Err(codes::INVALID_VALUE.into());
        }
        call.device(device)?.pool = pool;
        Ok(())
    }
}

fn card(call: &mut Call, device: c_int) -> Answer<&Card> {
    Ok(&call.device(device)?.card)
}

/// Says what it is, and which.
fn identity(call: &mut Call, device: c_int) -> Answer<abi::CUuuid> {
    call.device(device)?;
    let mut bytes = *b"orthant-emulated";
    bytes[15] = b'0' + device as u8;
    Ok(abi::CUuuid { bytes })
}

fn bus(device: c_int) -> c_int {
    device + 1
}

fn bus_id(device: c_int) -> String {
    format!("0000:{:02x}:00.0", bus(device))
}

/// Domain, bus, device and function of `0000:01:00.0`, where domain or function may be left out.
fn location(text: &str) -> Option<[u32; 4]> {
    let number = |text: &str| u32::from_str_radix(text, 16).ok();
    let (rest, function) = match text.split_once('.') {
        Some((rest, function)) => (rest, number(function)?),
        None => (text, 0),
    };
    match rest.split(':').map(number).collect::<Option<Vec<_>>>()?[..] {
        [domain, bus, device] => Some([domain, bus, device, function]),
        // Without a domain the function is what tells bus and device from domain and bus.
        [bus, device] if text.contains('.') => Some([0, bus, device, function]),
        _ => None,
    }
}
