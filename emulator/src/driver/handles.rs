//! Handles: numbers that look like pointers, are never used twice and tell what they stand for.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

/// Objects of one kind by their handles.
#[derive(Debug)]
pub(crate) struct Table<T> {
    items: BTreeMap<u64, T>,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Table { items: BTreeMap::new() }
    }
}

/// Far from where any process has memory of its own: a handle that is taken for a pointer crashes at once.
const FIRST: u64 = 0x0dad_0000_0000_0000;

impl<T> Table<T> {
    pub fn insert(&mut self, item: T) -> u64 {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let handle = FIRST | NEXT.fetch_add(1, Ordering::Relaxed) << 4;
        self.items.insert(handle, item);
        handle
    }

    pub fn get(&self, handle: u64) -> Option<&T> {
        self.items.get(&handle)
    }

    pub fn get_mut(&mut self, handle: u64) -> Option<&mut T> {
        self.items.get_mut(&handle)
    }

    pub fn remove(&mut self, handle: u64) -> Option<T> {
        self.items.remove(&handle)
    }

    pub fn iter(&self) -> impl Iterator<Item = (u64, &T)> {
        self.items.iter().map(|(&handle, item)| (handle, item))
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = (u64, &mut T)> {
        self.items.iter_mut().map(|(&handle, item)| (handle, item))
    }

    pub fn retain(&mut self, keep: impl Fn(u64, &T) -> bool) {
        self.items.retain(|&handle, item| keep(handle, item));
    }

    pub fn len(&self) -> usize {
        self.items.len()
    }
}
