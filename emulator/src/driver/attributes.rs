//! The driver's device attributes.
//!
//! Numbers and names are those of `CUdevice_attribute` in `cuda.h` of CUDA 13.5, without the deprecated second names.

use crate::exec::{Card, MAX_BLOCK, MAX_GRID, MAX_THREADS};

/// Every attribute, by number; the names lack `CU_DEVICE_ATTRIBUTE_`.
pub(crate) const NAMES: &[(u32, &str)] = &[
    (1, "MAX_THREADS_PER_BLOCK"),
    (2, "MAX_BLOCK_DIM_X"),
    (3, "MAX_BLOCK_DIM_Y"),
    (4, "MAX_BLOCK_DIM_Z"),
    (5, "MAX_GRID_DIM_X"),
    (6, "MAX_GRID_DIM_Y"),
    (7, "MAX_GRID_DIM_Z"),
    (8, "MAX_SHARED_MEMORY_PER_BLOCK"),
    (9, "TOTAL_CONSTANT_MEMORY"),
    (10, "WARP_SIZE"),
    (11, "MAX_PITCH"),
    (12, "MAX_REGISTERS_PER_BLOCK"),
    (13, "CLOCK_RATE"),
    (14, "TEXTURE_ALIGNMENT"),
    (15, "GPU_OVERLAP"),
    (16, "MULTIPROCESSOR_COUNT"),
    (17, "KERNEL_EXEC_TIMEOUT"),
    (18, "INTEGRATED"),
    (19, "CAN_MAP_HOST_MEMORY"),
    (20, "COMPUTE_MODE"),
    (21, "MAXIMUM_TEXTURE1D_WIDTH"),
    (22, "MAXIMUM_TEXTURE2D_WIDTH"),
    (23, "MAXIMUM_TEXTURE2D_HEIGHT"),
    (24, "MAXIMUM_TEXTURE3D_WIDTH"),
    (25, "MAXIMUM_TEXTURE3D_HEIGHT"),
    (26, "MAXIMUM_TEXTURE3D_DEPTH"),
    (27, "MAXIMUM_TEXTURE2D_LAYERED_WIDTH"),
    (28, "MAXIMUM_TEXTURE2D_LAYERED_HEIGHT"),
    (29, "MAXIMUM_TEXTURE2D_LAYERED_LAYERS"),
    (30, "SURFACE_ALIGNMENT"),
    (31, "CONCURRENT_KERNELS"),
    (32, "ECC_ENABLED"),
    (33, "PCI_BUS_ID"),
    (34, "PCI_DEVICE_ID"),
    (35, "TCC_DRIVER"),
    (36, "MEMORY_CLOCK_RATE"),
    (37, "GLOBAL_MEMORY_BUS_WIDTH"),
    (38, "L2_CACHE_SIZE"),
    (39, "MAX_THREADS_PER_MULTIPROCESSOR"),
    (40, "ASYNC_ENGINE_COUNT"),
    (41, "UNIFIED_ADDRESSING"),
    (42, "MAXIMUM_TEXTURE1D_LAYERED_WIDTH"),
    (43, "MAXIMUM_TEXTURE1D_LAYERED_LAYERS"),
    (44, "CAN_TEX2D_GATHER"),
    (45, "MAXIMUM_TEXTURE2D_GATHER_WIDTH"),
    (46, "MAXIMUM_TEXTURE2D_GATHER_HEIGHT"),
    (47, "MAXIMUM_TEXTURE3D_WIDTH_ALTERNATE"),
    (48, "MAXIMUM_TEXTURE3D_HEIGHT_ALTERNATE"),
    (49, "MAXIMUM_TEXTURE3D_DEPTH_ALTERNATE"),
    (50, "PCI_DOMAIN_ID"),
    (51, "TEXTURE_PITCH_ALIGNMENT"),
    (52, "MAXIMUM_TEXTURECUBEMAP_WIDTH"),
    (53, "MAXIMUM_TEXTURECUBEMAP_LAYERED_WIDTH"),
    (54, "MAXIMUM_TEXTURECUBEMAP_LAYERED_LAYERS"),
    (55, "MAXIMUM_SURFACE1D_WIDTH"),
    (56, "MAXIMUM_SURFACE2D_WIDTH"),
    (57, "MAXIMUM_SURFACE2D_HEIGHT"),
    (58, "MAXIMUM_SURFACE3D_WIDTH"),
    (59, "MAXIMUM_SURFACE3D_HEIGHT"),
    (60, "MAXIMUM_SURFACE3D_DEPTH"),
    (61, "MAXIMUM_SURFACE1D_LAYERED_WIDTH"),
    (62, "MAXIMUM_SURFACE1D_LAYERED_LAYERS"),
    (63, "MAXIMUM_SURFACE2D_LAYERED_WIDTH"),
    (64, "MAXIMUM_SURFACE2D_LAYERED_HEIGHT"),
    (65, "MAXIMUM_SURFACE2D_LAYERED_LAYERS"),
    (66, "MAXIMUM_SURFACECUBEMAP_WIDTH"),
    (67, "MAXIMUM_SURFACECUBEMAP_LAYERED_WIDTH"),
    (68, "MAXIMUM_SURFACECUBEMAP_LAYERED_LAYERS"),
    (69, "MAXIMUM_TEXTURE1D_LINEAR_WIDTH"),
    (70, "MAXIMUM_TEXTURE2D_LINEAR_WIDTH"),
    (71, "MAXIMUM_TEXTURE2D_LINEAR_HEIGHT"),
    (72, "MAXIMUM_TEXTURE2D_LINEAR_PITCH"),
    (73, "MAXIMUM_TEXTURE2D_MIPMAPPED_WIDTH"),
    (74, "MAXIMUM_TEXTURE2D_MIPMAPPED_HEIGHT"),
    (75, "COMPUTE_CAPABILITY_MAJOR"),
    (76, "COMPUTE_CAPABILITY_MINOR"),
    (77, "MAXIMUM_TEXTURE1D_MIPMAPPED_WIDTH"),
    (78, "STREAM_PRIORITIES_SUPPORTED"),
    (79, "GLOBAL_L1_CACHE_SUPPORTED"),
    (80, "LOCAL_L1_CACHE_SUPPORTED"),
    (81, "MAX_SHARED_MEMORY_PER_MULTIPROCESSOR"),
    (82, "MAX_REGISTERS_PER_MULTIPROCESSOR"),
    (83, "MANAGED_MEMORY"),
    (84, "MULTI_GPU_BOARD"),
    (85, "MULTI_GPU_BOARD_GROUP_ID"),
    (86, "HOST_NATIVE_ATOMIC_SUPPORTED"),
    (87, "SINGLE_TO_DOUBLE_PRECISION_PERF_RATIO"),
    (88, "PAGEABLE_MEMORY_ACCESS"),
    (89, "CONCURRENT_MANAGED_ACCESS"),
    (90, "COMPUTE_PREEMPTION_SUPPORTED"),
    (91, "CAN_USE_HOST_POINTER_FOR_REGISTERED_MEM"),
    (92, "CAN_USE_STREAM_MEM_OPS_V1"),
    (93, "CAN_USE_64_BIT_STREAM_MEM_OPS_V1"),
    (94, "CAN_USE_STREAM_WAIT_VALUE_NOR_V1"),
    (95, "COOPERATIVE_LAUNCH"),
    (96, "COOPERATIVE_MULTI_DEVICE_LAUNCH"),
    (97, "MAX_SHARED_MEMORY_PER_BLOCK_OPTIN"),
    (98, "CAN_FLUSH_REMOTE_WRITES"),
    (99, "HOST_REGISTER_SUPPORTED"),
    (100, "PAGEABLE_MEMORY_ACCESS_USES_HOST_PAGE_TABLES"),
    (101, "DIRECT_MANAGED_MEM_ACCESS_FROM_HOST"),
    (102, "VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED"),
    (103, "HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED"),
    (104, "HANDLE_TYPE_WIN32_HANDLE_SUPPORTED"),
    (105, "HANDLE_TYPE_WIN32_KMT_HANDLE_SUPPORTED"),
    (106, "MAX_BLOCKS_PER_MULTIPROCESSOR"),
    (107, "GENERIC_COMPRESSION_SUPPORTED"),
    (108, "MAX_PERSISTING_L2_CACHE_SIZE"),
    (109, "MAX_ACCESS_POLICY_WINDOW_SIZE"),
    (110, "GPU_DIRECT_RDMA_WITH_CUDA_VMM_SUPPORTED"),
    (111, "RESERVED_SHARED_MEMORY_PER_BLOCK"),
    (112, "SPARSE_CUDA_ARRAY_SUPPORTED"),
    (113, "READ_ONLY_HOST_REGISTER_SUPPORTED"),
    (114, "TIMELINE_SEMAPHORE_INTEROP_SUPPORTED"),
    (115, "MEMORY_POOLS_SUPPORTED"),
    (116, "GPU_DIRECT_RDMA_SUPPORTED"),
    (117, "GPU_DIRECT_RDMA_FLUSH_WRITES_OPTIONS"),
    (118, "GPU_DIRECT_RDMA_WRITES_ORDERING"),
    (119, "MEMPOOL_SUPPORTED_HANDLE_TYPES"),
    (120, "CLUSTER_LAUNCH"),
    (121, "DEFERRED_MAPPING_CUDA_ARRAY_SUPPORTED"),
    (122, "CAN_USE_64_BIT_STREAM_MEM_OPS"),
    (123, "CAN_USE_STREAM_WAIT_VALUE_NOR"),
    (124, "DMA_BUF_SUPPORTED"),
    (125, "IPC_EVENT_SUPPORTED"),
    (126, "MEM_SYNC_DOMAIN_COUNT"),
    (127, "TENSOR_MAP_ACCESS_SUPPORTED"),
    (128, "HANDLE_TYPE_FABRIC_SUPPORTED"),
    (129, "UNIFIED_FUNCTION_POINTERS"),
    (130, "NUMA_CONFIG"),
    (131, "NUMA_ID"),
    (132, "MULTICAST_SUPPORTED"),
    (133, "MPS_ENABLED"),
    (134, "HOST_NUMA_ID"),
    (135, "D3D12_CIG_SUPPORTED"),
    (136, "MEM_DECOMPRESS_ALGORITHM_MASK"),
    (137, "MEM_DECOMPRESS_MAXIMUM_LENGTH"),
    (138, "VULKAN_CIG_SUPPORTED"),
    (139, "GPU_PCI_DEVICE_ID"),
    (140, "GPU_PCI_SUBSYSTEM_ID"),
    (141, "HOST_NUMA_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED"),
    (142, "HOST_NUMA_MEMORY_POOLS_SUPPORTED"),
    (143, "HOST_NUMA_MULTINODE_IPC_SUPPORTED"),
    (144, "HOST_MEMORY_POOLS_SUPPORTED"),
    (145, "HOST_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED"),
    (146, "HOST_ALLOC_DMA_BUF_SUPPORTED"),
    (147, "ONLY_PARTIAL_HOST_NATIVE_ATOMIC_SUPPORTED"),
    (148, "ATOMIC_REDUCTION_SUPPORTED"),
    (149, "LOCALITY_DOMAIN_COUNT"),
    (150, "MAX_OVERSIZED_SHARED_MEMORY_PER_BLOCK"),
    (151, "D3D12_CIG_STREAMS_SUPPORTED"),
    (152, "DMA_BUF_MMAP_SUPPORTED"),
    (153, "LOGICAL_ENDPOINT_UNICAST_SUPPORTED"),
    (154, "LOGICAL_ENDPOINT_MULTICAST_SUPPORTED"),
    (155, "LOGICAL_ENDPOINT_COUNTED_OPS_SUPPORTED"),
    (156, "LOGICAL_ENDPOINT_UNICAST_ACCESS_ON_OWNER_DEVICE_SUPPORTED"),
    (157, "LOCALITY_DOMAIN_MULTIPROCESSOR_COUNT"),
    (158, "LOGICAL_ENDPOINT_SUPPORTED_HANDLE_TYPES"),
    (159, "VULKAN_CIG_STREAMS_SUPPORTED"),
    (160, "TENSOR_MAP_LARGE_TENSOR_MIN_SIZE"),
    (161, "GPU_DIRECT_RDMA_WITH_LOCALIZED_MEMORY_SUPPORTED"),
];

/// Of the attributes the one that tells cards apart, which is not `value`'s to know.
pub(crate) const PCI_BUS_ID: u32 = 33;

/// What `card` answers for an attribute; nothing for a number that is no attribute.
///
/// Sizes and rates are those of an A100 or an H100. What the software GPU does not do it does not claim either: mapped
/// and registered host memory, managed memory, textures and surfaces, operations on memory in streams, virtual memory
/// management, sharing between processes or devices, persisting cache lines, clusters and tensor maps are 0.
pub(crate) fn value(card: &Card, attribute: u32) -> Option<i32> {
    NAMES.binary_search_by_key(&attribute, |&(number, _)| number).ok()?;
    // In kilohertz.
    let (clock, memory_clock) = if card.arch >= 90 { (1_980_000, 2_619_000) } else { (1_410_000, 1_215_000) };
    Some(match attribute {
        1 => int(MAX_THREADS),                                  // MAX_THREADS_PER_BLOCK
        2 => int(MAX_BLOCK[0]),                                 // MAX_BLOCK_DIM_X
        3 => int(MAX_BLOCK[1]),                                 // MAX_BLOCK_DIM_Y
        4 => int(MAX_BLOCK[2]),                                 // MAX_BLOCK_DIM_Z
        5 => int(MAX_GRID[0]),                                  // MAX_GRID_DIM_X
        6 => int(MAX_GRID[1]),                                  // MAX_GRID_DIM_Y
        7 => int(MAX_GRID[2]),                                  // MAX_GRID_DIM_Z
        8 => int(card.shared_per_block),                        // MAX_SHARED_MEMORY_PER_BLOCK
        9 => 64 << 10,                                          // TOTAL_CONSTANT_MEMORY
        10 => 32,                                               // WARP_SIZE
        11 => i32::MAX,                                         // MAX_PITCH
        12 => int(card.registers_per_sm),                       // MAX_REGISTERS_PER_BLOCK
        13 => clock,                                            // CLOCK_RATE
        14 => 512,                                              // TEXTURE_ALIGNMENT
        15 => 1,                                                // GPU_OVERLAP
        16 => int(card.sms),                                    // MULTIPROCESSOR_COUNT
        30 => 512,                                              // SURFACE_ALIGNMENT
        31 => 1,                                                // CONCURRENT_KERNELS
        36 => memory_clock,                                     // MEMORY_CLOCK_RATE
        37 => 5120,                                             // GLOBAL_MEMORY_BUS_WIDTH
        38 => i32::try_from(card.l2_bytes).unwrap_or(i32::MAX), // L2_CACHE_SIZE
        39 => int(card.threads_per_sm),                         // MAX_THREADS_PER_MULTIPROCESSOR
        40 => 3,                                                // ASYNC_ENGINE_COUNT
        41 => 1,                                                // UNIFIED_ADDRESSING
        51 => 32,                                               // TEXTURE_PITCH_ALIGNMENT
        75 => int(card.arch / 10),                              // COMPUTE_CAPABILITY_MAJOR
        76 => int(card.arch % 10),                              // COMPUTE_CAPABILITY_MINOR
        78 => 1,                                                // STREAM_PRIORITIES_SUPPORTED
        79 => 1,                                                // GLOBAL_L1_CACHE_SUPPORTED
        80 => 1,                                                // LOCAL_L1_CACHE_SUPPORTED
        81 => int(card.shared_per_sm),                          // MAX_SHARED_MEMORY_PER_MULTIPROCESSOR
        82 => int(card.registers_per_sm),                       // MAX_REGISTERS_PER_MULTIPROCESSOR
        87 => 2,                                                // SINGLE_TO_DOUBLE_PRECISION_PERF_RATIO
        90 => 1,                                                // COMPUTE_PREEMPTION_SUPPORTED
        95 => 1,                                                // COOPERATIVE_LAUNCH
        97 => int(card.shared_per_block_optin),                 // MAX_SHARED_MEMORY_PER_BLOCK_OPTIN
        106 => int(card.blocks_per_sm),                         // MAX_BLOCKS_PER_MULTIPROCESSOR
        111 => int(card.shared_reserved),                       // RESERVED_SHARED_MEMORY_PER_BLOCK
        115 => 1,                                               // MEMORY_POOLS_SUPPORTED
        126 => 1,                                               // MEM_SYNC_DOMAIN_COUNT
        131 => -1,                                              // NUMA_ID
        134 => -1,                                              // HOST_NUMA_ID
        149 => 1,                                               // LOCALITY_DOMAIN_COUNT
        157 => int(card.sms),                                   // LOCALITY_DOMAIN_MULTIPROCESSOR_COUNT
        160 => i32::MAX,                                        // TENSOR_MAP_LARGE_TENSOR_MIN_SIZE
        _ => 0,
    })
}

fn int(value: u32) -> i32 {
    i32::try_from(value).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(card: &Card, name: &str) -> Option<i32> {
        let &(number, _) = NAMES.iter().find(|row| row.1 == name)?;
        value(card, number)
    }

    #[test]
    fn numbers_are_sorted_and_all_have_a_value() {
        assert!(NAMES.is_sorted_by(|a, b| a.0 < b.0));
        assert!(NAMES.iter().all(|&(number, _)| value(&Card::sm_80(), number).is_some()));
        let last = NAMES[NAMES.len() - 1].0;
        assert_eq!([0, last + 1, u32::MAX].map(|number| value(&Card::sm_80(), number)), [None; 3]);
    }

    #[test]
    fn values_are_under_the_right_number() {
        let (ampere, hopper) = (Card::sm_80(), Card::sm_90a());
        for (name, on_ampere, on_hopper) in [
            ("MAX_THREADS_PER_BLOCK", 1024, 1024),
            ("MAX_BLOCK_DIM_X", 1024, 1024),
            ("MAX_BLOCK_DIM_Y", 1024, 1024),
            ("MAX_BLOCK_DIM_Z", 64, 64),
            ("MAX_GRID_DIM_X", 2_147_483_647, 2_147_483_647),
            ("MAX_GRID_DIM_Y", 65_535, 65_535),
            ("MAX_GRID_DIM_Z", 65_535, 65_535),
            ("MAX_SHARED_MEMORY_PER_BLOCK", 49_152, 49_152),
            ("TOTAL_CONSTANT_MEMORY", 65_536, 65_536),
            ("WARP_SIZE", 32, 32),
            ("MAX_PITCH", 2_147_483_647, 2_147_483_647),
            ("MAX_REGISTERS_PER_BLOCK", 65_536, 65_536),
            ("CLOCK_RATE", 1_410_000, 1_980_000),
            ("MULTIPROCESSOR_COUNT", 108, 132),
            ("CAN_MAP_HOST_MEMORY", 0, 0),
            ("MAXIMUM_TEXTURE2D_WIDTH", 0, 0),
            ("CONCURRENT_KERNELS", 1, 1),
            ("ECC_ENABLED", 0, 0),
            ("MEMORY_CLOCK_RATE", 1_215_000, 2_619_000),
            ("L2_CACHE_SIZE", 41_943_040, 52_428_800),
            ("MAX_THREADS_PER_MULTIPROCESSOR", 2048, 2048),
            ("ASYNC_ENGINE_COUNT", 3, 3),
            ("UNIFIED_ADDRESSING", 1, 1),
            ("COMPUTE_CAPABILITY_MAJOR", 8, 9),
            ("COMPUTE_CAPABILITY_MINOR", 0, 0),
            ("STREAM_PRIORITIES_SUPPORTED", 1, 1),
            ("MAX_SHARED_MEMORY_PER_MULTIPROCESSOR", 167_936, 233_472),
            ("MANAGED_MEMORY", 0, 0),
            ("COMPUTE_PREEMPTION_SUPPORTED", 1, 1),
            ("COOPERATIVE_LAUNCH", 1, 1),
            ("MAX_SHARED_MEMORY_PER_BLOCK_OPTIN", 166_912, 232_448),
            ("VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED", 0, 0),
            ("MAX_BLOCKS_PER_MULTIPROCESSOR", 32, 32),
            ("RESERVED_SHARED_MEMORY_PER_BLOCK", 1024, 1024),
            ("MEMORY_POOLS_SUPPORTED", 1, 1),
            ("CLUSTER_LAUNCH", 0, 0),
            ("MULTICAST_SUPPORTED", 0, 0),
        ] {
            assert_eq!(
                (named(&ampere, name), named(&hopper, name)),
                (Some(on_ampere), Some(on_hopper)),
                "{name}"
            );
        }
    }
}
