//! What crosses the driver's interface: structures as C lays them out, and the constants in [`constants`].
//!
//! Names, order and sizes are those of `cuda.h` of CUDA 13.5, as gcc lays it out for 64-bit Linux; the fields' names
//! are in Rust's manner. Handles are opaque, and unions are bytes or their widest member. Whoever reads such a
//! structure reads memory that a program filled in, so enumerations are plain integers.

#![allow(non_camel_case_types)]

use std::ffi::c_void;
use std::mem::offset_of;

mod constants;
pub(crate) use constants::*;

/// An address in device memory.
pub(crate) type CUdeviceptr = u64;

/// Any of the driver's handles: context, module, function, stream, event, graph, node and so on.
pub(crate) type Handle = *mut c_void;

/// A function that a stream or graph calls on the host.
pub(crate) type CUhostFn = Option<unsafe extern "C" fn(*mut c_void)>;

/// The handles that name a stream without one having been created.
pub(crate) const CU_STREAM_LEGACY: u64 = 1;
pub(crate) const CU_STREAM_PER_THREAD: u64 = 2;

/// Markers in the `extra` of a launch, which are in the place of pointers.
pub(crate) const CU_LAUNCH_PARAM_END: usize = 0;
pub(crate) const CU_LAUNCH_PARAM_BUFFER_POINTER: usize = 1;
pub(crate) const CU_LAUNCH_PARAM_BUFFER_SIZE: usize = 2;

/// Checks a structure's size and where its fields begin.
macro_rules! layout {
    ($name:ident, $size:literal: $($field:ident $at:literal),*) => {
        const _: () = {
            assert!(size_of::<$name>() == $size);
            $(assert!(offset_of!($name, $field) == $at);)*
        };
    };
}

#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(crate) struct CUuuid {
    pub bytes: [u8; 16],
}
layout!(CUuuid, 16: bytes 0);

/// What `cuDeviceGetProperties` fills in.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(crate) struct CUdevprop {
    pub max_threads_per_block: i32,
    pub max_threads_dim: [i32; 3],
    pub max_grid_size: [i32; 3],
    pub shared_mem_per_block: i32,
    pub total_constant_memory: i32,
    pub simd_width: i32,
    pub mem_pitch: i32,
    pub regs_per_block: i32,
    pub clock_rate: i32,
    pub texture_align: i32,
}
layout!(CUdevprop, 56:
    max_threads_per_block 0, max_threads_dim 4, max_grid_size 16, shared_mem_per_block 28,
    total_constant_memory 32, simd_width 36, mem_pitch 40, regs_per_block 44, clock_rate 48, texture_align 52
);

#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(crate) struct CUctxCreateParams {
    pub exec_affinity_params: *mut c_void,
    pub num_exec_affinity_params: i32,
    pub cig_params: *mut c_void,
}
layout!(CUctxCreateParams, 24: exec_affinity_params 0, num_exec_affinity_params 8, cig_params 16);

/// `value` is a union; see [`CUlaunchAttribute::word`].
#[derive(Debug, Clone, Copy)]
#[repr(C, align(8))]
pub(crate) struct CUlaunchAttribute {
    pub id: u32,
    pub pad: [u8; 4],
    pub value: [u8; 64],
}

impl CUlaunchAttribute {
    /// The 32 bits at four times `index` of the value: a flag, a priority or a carveout is word 0, dimensions are words
    /// 0 to 2, and of an event the handle is words 0 and 1, its flags word 2 and `trigger_at_block_start` word 3.
    pub(crate) fn word(&self, index: usize) -> u32 {
        let bytes = &self.value[4 * index..4 * index + 4];
        u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
    }
}
layout!(CUlaunchAttribute, 72: id 0, pad 4, value 8);

#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(crate) struct CUlaunchConfig {
    pub grid_dim_x: u32,
    pub grid_dim_y: u32,
    pub grid_dim_z: u32,
    pub block_dim_x: u32,
    pub block_dim_y: u32,
    pub block_dim_z: u32,
    pub shared_mem_bytes: u32,
    pub h_stream: Handle,
    pub attrs: *mut CUlaunchAttribute,
    pub num_attrs: u32,
}
layout!(CUlaunchConfig, 56:
    grid_dim_x 0, grid_dim_y 4, grid_dim_z 8, block_dim_x 12, block_dim_y 16, block_dim_z 20,
    shared_mem_bytes 24, h_stream 32, attrs 40, num_attrs 48
);

/// The layout since CUDA 3.2, which the `_v2` functions take.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(crate) struct CUDA_MEMCPY2D {
    pub src_x_in_bytes: usize,
    pub src_y: usize,
    pub src_memory_type: u32,
    pub src_host: *const c_void,
    pub src_device: CUdeviceptr,
    pub src_array: Handle,
    pub src_pitch: usize,
    pub dst_x_in_bytes: usize,
    pub dst_y: usize,
    pub dst_memory_type: u32,
    pub dst_host: *mut c_void,
    pub dst_device: CUdeviceptr,
    pub dst_array: Handle,
    pub dst_pitch: usize,
    pub width_in_bytes: usize,
    pub height: usize,
}
layout!(CUDA_MEMCPY2D, 128:
    src_x_in_bytes 0, src_y 8, src_memory_type 16, src_host 24, src_device 32, src_array 40, src_pitch 48,
    dst_x_in_bytes 56, dst_y 64, dst_memory_type 72, dst_host 80, dst_device 88, dst_array 96, dst_pitch 104,
    width_in_bytes 112, height 120
);

#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(crate) struct CUDA_MEMCPY3D {
    pub src_x_in_bytes: usize,
    pub src_y: usize,
    pub src_z: usize,
    pub src_lod: usize,
    pub src_memory_type: u32,
    pub src_host: *const c_void,
    pub src_device: CUdeviceptr,
    pub src_array: Handle,
    pub reserved0: *mut c_void,
    pub src_pitch: usize,
    pub src_height: usize,
    pub dst_x_in_bytes: usize,
    pub dst_y: usize,
    pub dst_z: usize,
    pub dst_lod: usize,
    pub dst_memory_type: u32,
    pub dst_host: *mut c_void,
    pub dst_device: CUdeviceptr,
    pub dst_array: Handle,
    pub reserved1: *mut c_void,
    pub dst_pitch: usize,
    pub dst_height: usize,
    pub width_in_bytes: usize,
    pub height: usize,
    pub depth: usize,
}
layout!(CUDA_MEMCPY3D, 200:
    src_x_in_bytes 0, src_y 8, src_z 16, src_lod 24, src_memory_type 32, src_host 40, src_device 48,
    src_array 56, reserved0 64, src_pitch 72, src_height 80, dst_x_in_bytes 88, dst_y 96, dst_z 104,
    dst_lod 112, dst_memory_type 120, dst_host 128, dst_device 136, dst_array 144, reserved1 152,
    dst_pitch 160, dst_height 168, width_in_bytes 176, height 184, depth 192
);

#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(crate) struct CUmemLocation {
    pub kind: u32,
    pub id: i32,
}
layout!(CUmemLocation, 8: kind 0, id 4);

/// `gpu_direct_rdma_capable` is reserved before CUDA 13.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(crate) struct CUmemPoolProps {
    pub alloc_type: u32,
    pub handle_types: u32,
    pub location: CUmemLocation,
    pub win32_security_attributes: *mut c_void,
    pub max_size: usize,
    pub usage: u16,
    pub gpu_direct_rdma_capable: u8,
    pub reserved: [u8; 53],
}
layout!(CUmemPoolProps, 88:
    alloc_type 0, handle_types 4, location 8, win32_security_attributes 16, max_size 24, usage 32,
    gpu_direct_rdma_capable 34, reserved 35
);

#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(crate) struct CUDA_KERNEL_NODE_PARAMS_v1 {
    pub func: Handle,
    pub grid_dim_x: u32,
    pub grid_dim_y: u32,
    pub grid_dim_z: u32,
    pub block_dim_x: u32,
    pub block_dim_y: u32,
    pub block_dim_z: u32,
    pub shared_mem_bytes: u32,
    pub kernel_params: *mut *mut c_void,
    pub extra: *mut *mut c_void,
}
layout!(CUDA_KERNEL_NODE_PARAMS_v1, 56:
    func 0, grid_dim_x 8, grid_dim_y 12, grid_dim_z 16, block_dim_x 20, block_dim_y 24, block_dim_z 28,
    shared_mem_bytes 32, kernel_params 40, extra 48
);

/// Version 3, the one in [`CUgraphNodeParams`], has the same layout.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(crate) struct CUDA_KERNEL_NODE_PARAMS_v2 {
    pub func: Handle,
    pub grid_dim_x: u32,
    pub grid_dim_y: u32,
    pub grid_dim_z: u32,
    pub block_dim_x: u32,
    pub block_dim_y: u32,
    pub block_dim_z: u32,
    pub shared_mem_bytes: u32,
    pub kernel_params: *mut *mut c_void,
    pub extra: *mut *mut c_void,
    pub kern: Handle,
    pub ctx: Handle,
}
layout!(CUDA_KERNEL_NODE_PARAMS_v2, 72:
    func 0, grid_dim_x 8, grid_dim_y 12, grid_dim_z 16, block_dim_x 20, block_dim_y 24, block_dim_z 28,
    shared_mem_bytes 32, kernel_params 40, extra 48, kern 56, ctx 64
);

#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(crate) struct CUDA_MEMSET_NODE_PARAMS_v1 {
    pub dst: CUdeviceptr,
    pub pitch: usize,
    pub value: u32,
    pub element_size: u32,
    pub width: usize,
    pub height: usize,
}
layout!(CUDA_MEMSET_NODE_PARAMS_v1, 40: dst 0, pitch 8, value 16, element_size 20, width 24, height 32);

#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(crate) struct CUDA_HOST_NODE_PARAMS_v1 {
    pub function: CUhostFn,
    pub user_data: *mut c_void,
}
layout!(CUDA_HOST_NODE_PARAMS_v1, 16: function 0, user_data 8);

#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(crate) struct CUDA_GRAPH_INSTANTIATE_PARAMS {
    pub flags: u64,
    pub h_upload_stream: Handle,
    pub h_err_node_out: Handle,
    pub result_out: u32,
}
layout!(CUDA_GRAPH_INSTANTIATE_PARAMS, 32: flags 0, h_upload_stream 8, h_err_node_out 16, result_out 24);

#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(crate) struct CUgraphExecUpdateResultInfo {
    pub result: u32,
    pub error_node: Handle,
    pub error_from_node: Handle,
}
layout!(CUgraphExecUpdateResultInfo, 24: result 0, error_node 8, error_from_node 16);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_a_launch_attribute() {
        let mut value = [0; 64];
        for (index, word) in [3u32, 5, 7].into_iter().enumerate() {
            value[4 * index..4 * index + 4].copy_from_slice(&word.to_ne_bytes());
        }
        let attribute = CUlaunchAttribute { id: launch_attribute::CLUSTER_DIMENSION, pad: [0; 4], value };
        assert_eq!([0, 1, 2, 15].map(|index| attribute.word(index)), [3, 5, 7, 0]);
    }
}
