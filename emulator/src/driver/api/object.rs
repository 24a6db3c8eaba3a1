//! User objects, whose references graphs may hold.

use crate::driver::objects::UserObject;
use crate::driver::raw::{Callback, Calls, Out};
use crate::driver::{Refusal, codes};
use std::ffi::c_uint;

/// `CU_USER_OBJECT_NO_DESTRUCTOR_SYNC`, without which the manual has no object.
const NO_DESTRUCTOR_SYNC: c_uint = 1;
/// `CU_GRAPH_USER_OBJECT_MOVE`: the graph gets references that the caller has.
const MOVE: c_uint = 1;

api! {
    fn cuUserObjectCreate(
        object: Out<u64>,
        data: usize,
        destroy: usize,
        references: c_uint,
        flags: c_uint,
    ) Context |call| {
        let counts = (1..=i32::MAX as c_uint).contains(&references);
        if object.is_null() || destroy == 0 || !counts || flags != NO_DESTRUCTOR_SYNC {
            return Err(codes::INVALID_VALUE.into());
        }
        let destroy = Callback { function: destroy, data, calls: Calls::Destructor };
        let (context, references) = (call.context, references.into());
        let handle = call.objects.insert(UserObject { context, destroy, references, used_by: Vec::new() });
        object.set(handle)
    }

    fn cuUserObjectRetain(object: u64, count: c_uint) Init |call| {
        let object = call.object(object)?;
        if count == 0 {
            return Err(codes::INVALID_VALUE.into());
        }
        object.references += u64::from(count);
        Ok(())
    }

    fn cuUserObjectRelease(object: u64, count: c_uint) Init |call| {
        call.release(object, count.into())
    }

    fn cuGraphRetainUserObject(graph: u64, object: u64, count: c_uint, flags: c_uint) Init |call| {
        call.graph(graph)?;
        let count = u64::from(count);
        let found = call.object(object)?;
        if count == 0 || flags & !MOVE != 0 || flags == MOVE && count > found.references {
            return Err(codes::INVALID_VALUE.into());
        }
        if flags != MOVE {
            found.references += count;
        }
        if let Some(graph) = call.graphs.get_mut(graph) {
            *graph.objects.entry(object).or_default() += count;
        }
        Ok(())
    }

    fn cuGraphReleaseUserObject(graph: u64, object: u64, count: c_uint) Init |call| {
        let count = u64::from(count);
        let graph = call.graphs.get_mut(graph).ok_or(Refusal::from(codes::INVALID_HANDLE))?;
        match graph.objects.get_mut(&object) {
            Some(held) if count > 0 && *held > count => *held -= count,
            Some(held) if *held == count => _ = graph.objects.remove(&object),
            _ => return Err(codes::INVALID_VALUE.into()),
        }
        call.release(object, count)
    }
}
