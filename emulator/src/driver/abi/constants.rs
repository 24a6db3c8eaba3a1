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
    pub const REQUIRED_CLUSTER_HEIGHT: u32 = 12;
    pub const REQUIRED_CLUSTER_DEPTH: u32 = 13;
    pub const NON_PORTABLE_CLUSTER_SIZE_ALLOWED: u32 = 14;
    pub const CLUSTER_SCHEDULING_POLICY_PREFERENCE: u32 = 15;
    pub const DEVICE_NODE_UPDATE_SUPPORTED: u32 = 16;
    pub const SHARED_MEMORY_MODE: u32 = 17;
}

/// Options of loading and linking.
pub(crate) mod jit_option {
    pub const MAX_REGISTERS: u32 = 0;
    pub const THREADS_PER_BLOCK: u32 = 1;
    pub const WALL_TIME: u32 = 2;
    pub const INFO_LOG_BUFFER: u32 = 3;
    pub const INFO_LOG_BUFFER_SIZE_BYTES: u32 = 4;
    pub const ERROR_LOG_BUFFER: u32 = 5;
    pub const ERROR_LOG_BUFFER_SIZE_BYTES: u32 = 6;
    pub const OPTIMIZATION_LEVEL: u32 = 7;
    pub const TARGET_FROM_CUCONTEXT: u32 = 8;
    pub const TARGET: u32 = 9;
    pub const FALLBACK_STRATEGY: u32 = 10;
    pub const GENERATE_DEBUG_INFO: u32 = 11;
    pub const LOG_VERBOSE: u32 = 12;
    pub const GENERATE_LINE_INFO: u32 = 13;
    pub const CACHE_MODE: u32 = 14;
    pub const FAST_COMPILE: u32 = 16;
    pub const GLOBAL_SYMBOL_NAMES: u32 = 17;
    pub const GLOBAL_SYMBOL_ADDRESSES: u32 = 18;
    pub const GLOBAL_SYMBOL_COUNT: u32 = 19;
    pub const LTO: u32 = 20;
    pub const FTZ: u32 = 21;
    pub const PREC_DIV: u32 = 22;
    pub const PREC_SQRT: u32 = 23;
    pub const FMA: u32 = 24;
    pub const REFERENCED_KERNEL_NAMES: u32 = 25;
    pub const REFERENCED_KERNEL_COUNT: u32 = 26;
    pub const REFERENCED_VARIABLE_NAMES: u32 = 27;
    pub const REFERENCED_VARIABLE_COUNT: u32 = 28;
    pub const OPTIMIZE_UNUSED_DEVICE_VARIABLES: u32 = 29;
    pub const POSITION_INDEPENDENT_CODE: u32 = 30;
    pub const MIN_CTA_PER_SM: u32 = 31;
    pub const MAX_THREADS_PER_BLOCK: u32 = 32;
    pub const OVERRIDE_DIRECTIVE_VALUES: u32 = 33;
    pub const SPLIT_COMPILE: u32 = 34;
    pub const BINARY_LOADER_THREAD_COUNT: u32 = 35;
}

/// Kinds of input of the linker.
pub(crate) mod jit_input {
    pub const CUBIN: u32 = 0;
    pub const PTX: u32 = 1;
    pub const FATBINARY: u32 = 2;
    pub const OBJECT: u32 = 3;
    pub const LIBRARY: u32 = 4;
    pub const NVVM: u32 = 5;
}

/// Options of loading a library.
pub(crate) mod library_option {
    pub const HOST_UNIVERSAL_FUNCTION_AND_DATA_TABLE: u32 = 0;
    pub const BINARY_IS_PRESERVED: u32 = 1;
}

/// How modules load their functions.
pub(crate) mod module_loading {
    pub const EAGER_LOADING: u32 = 1;
    pub const LAZY_LOADING: u32 = 2;
}

/// Whether a function has been loaded.
pub(crate) mod function_loading {
    pub const UNLOADED: u32 = 0;
    pub const LOADED: u32 = 1;
}

/// What an SM prefers to use its memory for.
pub(crate) mod function_cache {
    pub const NONE: u32 = 0;
    pub const SHARED: u32 = 1;
    pub const L1: u32 = 2;
    pub const EQUAL: u32 = 3;
}

/// Attributes of a pointer.
pub(crate) mod pointer_attribute {
    pub const CONTEXT: u32 = 1;
    pub const MEMORY_TYPE: u32 = 2;
    pub const DEVICE_POINTER: u32 = 3;
    pub const HOST_POINTER: u32 = 4;
    pub const P2P_TOKENS: u32 = 5;
    pub const SYNC_MEMOPS: u32 = 6;
    pub const BUFFER_ID: u32 = 7;
    pub const IS_MANAGED: u32 = 8;
    pub const DEVICE_ORDINAL: u32 = 9;
    pub const IS_LEGACY_CUDA_IPC_CAPABLE: u32 = 10;
    pub const RANGE_START_ADDR: u32 = 11;
    pub const RANGE_SIZE: u32 = 12;
    pub const MAPPED: u32 = 13;
    pub const ALLOWED_HANDLE_TYPES: u32 = 14;
    pub const IS_GPU_DIRECT_RDMA_CAPABLE: u32 = 15;
    pub const ACCESS_FLAGS: u32 = 16;
    pub const MEMPOOL_HANDLE: u32 = 17;
    pub const MAPPING_SIZE: u32 = 18;
    pub const MAPPING_BASE_ADDR: u32 = 19;
    pub const MEMORY_BLOCK_ID: u32 = 20;
    pub const IS_HW_DECOMPRESS_CAPABLE: u32 = 21;
    pub const LOCALITY_DOMAIN_ORDINAL: u32 = 22;
}

/// Where memory is.
pub(crate) mod memory_type {
    pub const HOST: u32 = 1;
    pub const DEVICE: u32 = 2;
    pub const ARRAY: u32 = 3;
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
    pub const IOMEMORY: u32 = 4;
    pub const READ_ONLY: u32 = 8;
}

/// Kinds of memory location.
pub(crate) mod location_type {
    pub const NONE: u32 = 0;
    pub const DEVICE: u32 = 1;
    pub const HOST: u32 = 2;
    pub const HOST_NUMA: u32 = 3;
    pub const HOST_NUMA_CURRENT: u32 = 4;
    pub const INVISIBLE: u32 = 5;
    pub const DEVICE_LOCALITY_DOMAIN: u32 = 6;
}

/// Kinds of allocation of a pool.
pub(crate) mod allocation_type {
    pub const INVALID: u32 = 0;
    pub const PINNED: u32 = 1;
    pub const MANAGED: u32 = 2;
}

/// Kinds of handle that a pool can be shared by.
pub(crate) mod handle_type {
    pub const NONE: u32 = 0;
    pub const POSIX_FILE_DESCRIPTOR: u32 = 1;
    pub const WIN32: u32 = 2;
    pub const WIN32_KMT: u32 = 4;
    pub const FABRIC: u32 = 8;
}

/// Access that a location has to a pool.
pub(crate) mod access {
    pub const NONE: u32 = 0;
    pub const READ: u32 = 1;
    pub const READWRITE: u32 = 3;
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
    pub const ALLOCATION_TYPE: u32 = 9;
    pub const EXPORT_HANDLE_TYPES: u32 = 10;
    pub const LOCATION_ID: u32 = 11;
    pub const LOCATION_TYPE: u32 = 12;
    pub const MAX_POOL_SIZE: u32 = 13;
    pub const HW_DECOMPRESS_ENABLED: u32 = 14;
    pub const LOCALITY_DOMAIN_ID: u32 = 15;
}

/// Attributes of a device's memory for graphs.
pub(crate) mod graph_memory_attribute {
    pub const USED_MEM_CURRENT: u32 = 0;
    pub const USED_MEM_HIGH: u32 = 1;
    pub const RESERVED_MEM_CURRENT: u32 = 2;
    pub const RESERVED_MEM_HIGH: u32 = 3;
}

/// Flags of a context.
pub(crate) mod context_flag {
    pub const SCHED_AUTO: u32 = 0;
    pub const SCHED_SPIN: u32 = 1;
    pub const SCHED_YIELD: u32 = 2;
    pub const SCHED_BLOCKING_SYNC: u32 = 4;
    pub const SCHED_MASK: u32 = 7;
    pub const MAP_HOST: u32 = 8;
    pub const LMEM_RESIZE_TO_MAX: u32 = 16;
    pub const COREDUMP_ENABLE: u32 = 32;
    pub const USER_COREDUMP_ENABLE: u32 = 64;
    pub const SYNC_MEMOPS: u32 = 128;
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
    pub const PERSISTING_L2_CACHE_SIZE: u32 = 6;
    pub const SHMEM_SIZE: u32 = 7;
    pub const CIG_ENABLED: u32 = 8;
    pub const CIG_SHMEM_FALLBACK_ENABLED: u32 = 9;
    pub const PER_BLOCK_MEMORY_SIZE: u32 = 10;
}

/// Who may have a context on a device.
pub(crate) mod compute_mode {
    pub const DEFAULT: u32 = 0;
    pub const PROHIBITED: u32 = 2;
    pub const EXCLUSIVE_PROCESS: u32 = 3;
}

/// Attributes of a pair of devices.
pub(crate) mod p2p_attribute {
    pub const PERFORMANCE_RANK: u32 = 1;
    pub const ACCESS_SUPPORTED: u32 = 2;
    pub const NATIVE_ATOMIC_SUPPORTED: u32 = 3;
    pub const CUDA_ARRAY_ACCESS_SUPPORTED: u32 = 4;
    pub const ONLY_PARTIAL_NATIVE_ATOMIC_SUPPORTED: u32 = 5;
}

/// Flags of a stream.
pub(crate) mod stream_flag {
    pub const DEFAULT: u32 = 0;
    pub const NON_BLOCKING: u32 = 1;
}

/// Flags of an event.
pub(crate) mod event_flag {
    pub const DEFAULT: u32 = 0;
    pub const BLOCKING_SYNC: u32 = 1;
    pub const DISABLE_TIMING: u32 = 2;
    pub const INTERPROCESS: u32 = 4;
}

/// Flags of recording an event.
pub(crate) mod event_record {
    pub const DEFAULT: u32 = 0;
    pub const EXTERNAL: u32 = 1;
}

/// Flags of waiting for an event.
pub(crate) mod event_wait {
    pub const DEFAULT: u32 = 0;
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

/// Flags of changing a capture's dependencies.
pub(crate) mod capture_dependencies {
    pub const ADD_CAPTURE_DEPENDENCIES: u32 = 0;
    pub const SET_CAPTURE_DEPENDENCIES: u32 = 1;
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
    pub const PROGRAMMATIC_EVENT: u32 = 7;
    pub const PRIORITY: u32 = 8;
    pub const MEM_SYNC_DOMAIN_MAP: u32 = 9;
    pub const MEM_SYNC_DOMAIN: u32 = 10;
    pub const PREFERRED_CLUSTER_DIMENSION: u32 = 11;
    pub const LAUNCH_COMPLETION_EVENT: u32 = 12;
    pub const DEVICE_UPDATABLE_KERNEL_NODE: u32 = 13;
    pub const PREFERRED_SHARED_MEMORY_CARVEOUT: u32 = 14;
    pub const NVLINK_UTIL_CENTRIC_SCHEDULING: u32 = 16;
    pub const PORTABLE_CLUSTER_SIZE_MODE: u32 = 17;
    pub const SHARED_MEMORY_MODE: u32 = 18;
}

/// How a host thread waits for a stream.
pub(crate) mod synchronization_policy {
    pub const AUTO: u32 = 1;
    pub const SPIN: u32 = 2;
    pub const YIELD: u32 = 3;
    pub const BLOCKING_SYNC: u32 = 4;
}

/// How clusters are placed.
pub(crate) mod cluster_policy {
    pub const DEFAULT: u32 = 0;
    pub const SPREAD: u32 = 1;
    pub const LOAD_BALANCING: u32 = 2;
    pub const RUBIN_DSMEM_LOCALITY: u32 = 3;
}

/// Kinds of graph node.
pub(crate) mod node_type {
    pub const KERNEL: u32 = 0;
    pub const MEMCPY: u32 = 1;
    pub const MEMSET: u32 = 2;
    pub const HOST: u32 = 3;
    pub const GRAPH: u32 = 4;
    pub const EMPTY: u32 = 5;
    pub const WAIT_EVENT: u32 = 6;
    pub const EVENT_RECORD: u32 = 7;
    pub const EXT_SEMAS_SIGNAL: u32 = 8;
    pub const EXT_SEMAS_WAIT: u32 = 9;
    pub const MEM_ALLOC: u32 = 10;
    pub const MEM_FREE: u32 = 11;
    pub const BATCH_MEM_OP: u32 = 12;
    pub const CONDITIONAL: u32 = 13;
    pub const MEMCPY_BATCH: u32 = 14;
    pub const EXTERNAL_ENGINE: u32 = 17;
    pub const FABRIC_CPY_BATCH: u32 = 18;
}

/// Kinds of edge of a graph.
pub(crate) mod dependency_type {
    pub const DEFAULT: u32 = 0;
    pub const PROGRAMMATIC: u32 = 1;
}

/// Ports of a kernel node.
pub(crate) mod kernel_port {
    pub const DEFAULT: u32 = 0;
    pub const PROGRAMMATIC: u32 = 1;
    pub const LAUNCH_ORDER: u32 = 2;
}

/// Flags of instantiating a graph.
pub(crate) mod instantiate_flag {
    pub const AUTO_FREE_ON_LAUNCH: u32 = 1;
    pub const UPLOAD: u32 = 2;
    pub const DEVICE_LAUNCH: u32 = 4;
    pub const USE_NODE_PRIORITY: u32 = 8;
}

/// How instantiating a graph went.
pub(crate) mod instantiate_result {
    pub const SUCCESS: u32 = 0;
    pub const ERROR: u32 = 1;
    pub const INVALID_STRUCTURE: u32 = 2;
    pub const NODE_OPERATION_NOT_SUPPORTED: u32 = 3;
    pub const MULTIPLE_CTXS_NOT_SUPPORTED: u32 = 4;
    pub const CONDITIONAL_HANDLE_UNUSED: u32 = 5;
}

/// How updating an instantiated graph went.
pub(crate) mod update_result {
    pub const SUCCESS: u32 = 0;
    pub const ERROR: u32 = 1;
    pub const ERROR_TOPOLOGY_CHANGED: u32 = 2;
    pub const ERROR_NODE_TYPE_CHANGED: u32 = 3;
    pub const ERROR_FUNCTION_CHANGED: u32 = 4;
    pub const ERROR_PARAMETERS_CHANGED: u32 = 5;
    pub const ERROR_NOT_SUPPORTED: u32 = 6;
    pub const ERROR_UNSUPPORTED_FUNCTION_CHANGE: u32 = 7;
    pub const ERROR_ATTRIBUTES_CHANGED: u32 = 8;
}

/// Flags of a user object.
pub(crate) mod user_object {
    pub const NO_DESTRUCTOR_SYNC: u32 = 1;
}

/// Flags of a graph retaining a user object.
pub(crate) mod user_object_retain {
    pub const MOVE: u32 = 1;
}

/// Flags of the occupancy calls.
pub(crate) mod occupancy_flag {
    pub const DEFAULT: u32 = 0;
    pub const DISABLE_CACHING_OVERRIDE: u32 = 1;
}

/// Flags of `cuGetProcAddress`.
pub(crate) mod proc_address_flag {
    pub const DEFAULT: u32 = 0;
    pub const LEGACY_STREAM: u32 = 1;
    pub const PER_THREAD_DEFAULT_STREAM: u32 = 2;
}

/// What `cuGetProcAddress` found.
pub(crate) mod proc_address_result {
    pub const SUCCESS: u32 = 0;
    pub const SYMBOL_NOT_FOUND: u32 = 1;
    pub const VERSION_NOT_SUFFICIENT: u32 = 2;
}
