//! The driver's enumerations and flags, a module each, as plain numbers.
//!
//! Numbers and names are those of `cuda.h` of CUDA 13.5; the names lack what the C names of a module have in common.

/// Attributes of a function or kernel.
pub(crate) mod function_attribute {
    pub const MAX_THREADS_PER_BLOCK: u32 = 0;
    pub const SHARED_SIZE_BYTES: u32 = 1;
    pub const CONST_SIZE_BYTES: u32 = 2;
    pub const LOCAL_SIZE_BYTES: u32 = 3;
    pub const NUM_REGS: u32 = 4;
    pub const PTX_VERSION: u32 = 5;
    pub const BINARY_VERSION: u32 = 6;
    pub const CACHE_MODE_CA: u32 = 7;
    pub const MAX_DYNAMIC_SHARED_SIZE_BYTES: u32 = 8;
    pub const PREFERRED_SHARED_MEMORY_CARVEOUT: u32 = 9;
    pub const CLUSTER_SIZE_MUST_BE_SET: u32 = 10;
    pub const REQUIRED_CLUSTER_WIDTH: u32 = 11;
    pub const REQUIRED_CLUSTER_DEPTH: u32 = 13;
    pub const NON_PORTABLE_CLUSTER_SIZE_ALLOWED: u32 = 14;
    pub const CLUSTER_SCHEDULING_POLICY_PREFERENCE: u32 = 15;
}

/// Options of loading and linking.
pub(crate) mod jit_option {
    pub const WALL_TIME: u32 = 2;
    pub const INFO_LOG_BUFFER: u32 = 3;
    pub const INFO_LOG_BUFFER_SIZE_BYTES: u32 = 4;
    pub const ERROR_LOG_BUFFER: u32 = 5;
    pub const ERROR_LOG_BUFFER_SIZE_BYTES: u32 = 6;
    pub const GLOBAL_SYMBOL_NAMES: u32 = 17;
    pub const GLOBAL_SYMBOL_COUNT: u32 = 19;
    pub const BINARY_LOADER_THREAD_COUNT: u32 = 35;
}

/// Options of loading a library.
pub(crate) mod library_option {
    pub const BINARY_IS_PRESERVED: u32 = 1;
}

/// How modules load their functions.
pub(crate) mod module_loading {
    pub const EAGER_LOADING: u32 = 1;
}

/// Whether a function has been loaded.
pub(crate) mod function_loading {
    pub const LOADED: u32 = 1;
}

/// What an SM prefers to use its memory for.
pub(crate) mod function_cache {
    pub const EQUAL: u32 = 3;
}

/// Attributes of a pointer.
pub(crate) mod pointer_attribute {
    pub const CONTEXT: u32 = 1;
    pub const MEMORY_TYPE: u32 = 2;
    pub const DEVICE_POINTER: u32 = 3;
    pub const HOST_POINTER: u32 = 4;
    pub const SYNC_MEMOPS: u32 = 6;
    pub const BUFFER_ID: u32 = 7;
    pub const IS_MANAGED: u32 = 8;
    pub const DEVICE_ORDINAL: u32 = 9;
    pub const IS_LEGACY_CUDA_IPC_CAPABLE: u32 = 10;
    pub const RANGE_START_ADDR: u32 = 11;
    pub const RANGE_SIZE: u32 = 12;
    pub const MAPPED: u32 = 13;
    pub const IS_GPU_DIRECT_RDMA_CAPABLE: u32 = 15;
    pub const MEMPOOL_HANDLE: u32 = 17;
    pub const MAPPING_SIZE: u32 = 18;
    pub const MAPPING_BASE_ADDR: u32 = 19;
}

/// Where memory is.
pub(crate) mod memory_type {
    pub const HOST: u32 = 1;
    pub const DEVICE: u32 = 2;
    pub const UNIFIED: u32 = 4;
}

/// Flags of allocating host memory.
pub(crate) mod host_alloc {
    pub const PORTABLE: u32 = 1;
    pub const DEVICEMAP: u32 = 2;
    pub const WRITECOMBINED: u32 = 4;
}

/// Flags of registering host memory.
pub(crate) mod host_register {
    pub const PORTABLE: u32 = 1;
    pub const DEVICEMAP: u32 = 2;
    pub const READ_ONLY: u32 = 8;
}

/// Kinds of memory location.
pub(crate) mod location_type {
    pub const DEVICE: u32 = 1;
}

/// Kinds of allocation of a pool.
pub(crate) mod allocation_type {
    pub const PINNED: u32 = 1;
}

/// Kinds of handle that a pool can be shared by.
pub(crate) mod handle_type {
    pub const NONE: u32 = 0;
}

/// Attributes of a memory pool.
pub(crate) mod pool_attribute {
    pub const REUSE_FOLLOW_EVENT_DEPENDENCIES: u32 = 1;
    pub const REUSE_ALLOW_OPPORTUNISTIC: u32 = 2;
    pub const REUSE_ALLOW_INTERNAL_DEPENDENCIES: u32 = 3;
    pub const RELEASE_THRESHOLD: u32 = 4;
    pub const RESERVED_MEM_CURRENT: u32 = 5;
    pub const RESERVED_MEM_HIGH: u32 = 6;
    pub const USED_MEM_CURRENT: u32 = 7;
    pub const USED_MEM_HIGH: u32 = 8;
}

/// Flags of a context.
pub(crate) mod context_flag {
    pub const FLAGS_MASK: u32 = 255;
}

/// Limits of a context.
pub(crate) mod limit {
    pub const STACK_SIZE: u32 = 0;
    pub const PRINTF_FIFO_SIZE: u32 = 1;
    pub const MALLOC_HEAP_SIZE: u32 = 2;
    pub const DEV_RUNTIME_SYNC_DEPTH: u32 = 3;
    pub const DEV_RUNTIME_PENDING_LAUNCH_COUNT: u32 = 4;
    pub const MAX_L2_FETCH_GRANULARITY: u32 = 5;
}

/// Flags of a stream.
pub(crate) mod stream_flag {
    pub const NON_BLOCKING: u32 = 1;
}

/// Flags of an event.
pub(crate) mod event_flag {
    pub const BLOCKING_SYNC: u32 = 1;
    pub const DISABLE_TIMING: u32 = 2;
    pub const INTERPROCESS: u32 = 4;
}

/// Flags of recording an event.
pub(crate) mod event_record {
    pub const EXTERNAL: u32 = 1;
}

/// Which unsafe calls a capture forbids.
pub(crate) mod capture_mode {
    pub const GLOBAL: u32 = 0;
    pub const THREAD_LOCAL: u32 = 1;
    pub const RELAXED: u32 = 2;
}

/// Whether a stream is capturing.
pub(crate) mod capture_status {
    pub const NONE: u32 = 0;
    pub const ACTIVE: u32 = 1;
    pub const INVALIDATED: u32 = 2;
}

/// Attributes of a launch; also those of a stream and of a kernel node.
pub(crate) mod launch_attribute {
    pub const IGNORE: u32 = 0;
    pub const ACCESS_POLICY_WINDOW: u32 = 1;
    pub const COOPERATIVE: u32 = 2;
    pub const SYNCHRONIZATION_POLICY: u32 = 3;
    pub const CLUSTER_DIMENSION: u32 = 4;
    pub const CLUSTER_SCHEDULING_POLICY_PREFERENCE: u32 = 5;
    pub const PROGRAMMATIC_STREAM_SERIALIZATION: u32 = 6;
    pub const PRIORITY: u32 = 8;
    pub const PREFERRED_SHARED_MEMORY_CARVEOUT: u32 = 14;
}

/// Flags of instantiating a graph.
pub(crate) mod instantiate_flag {
    pub const AUTO_FREE_ON_LAUNCH: u32 = 1;
    pub const UPLOAD: u32 = 2;
    pub const USE_NODE_PRIORITY: u32 = 8;
}

/// How instantiating a graph went.
pub(crate) mod instantiate_result {
    pub const SUCCESS: u32 = 0;
    pub const ERROR: u32 = 1;
    pub const INVALID_STRUCTURE: u32 = 2;
}

/// How updating an instantiated graph went.
pub(crate) mod update_result {
    pub const SUCCESS: u32 = 0;
    pub const ERROR: u32 = 1;
    pub const ERROR_TOPOLOGY_CHANGED: u32 = 2;
    pub const ERROR_NODE_TYPE_CHANGED: u32 = 3;
    pub const ERROR_PARAMETERS_CHANGED: u32 = 5;
    pub const ERROR_NOT_SUPPORTED: u32 = 6;
}

/// Flags of `cuGetProcAddress`.
pub(crate) mod proc_address_flag {
    pub const PER_THREAD_DEFAULT_STREAM: u32 = 2;
}

/// What `cuGetProcAddress` found.
pub(crate) mod proc_address_result {
    pub const SUCCESS: u32 = 0;
    pub const SYMBOL_NOT_FOUND: u32 = 1;
    pub const VERSION_NOT_SUFFICIENT: u32 = 2;
}
