//! Read buffers of clients: an idle client owns none, a busy one borrows from its thread's free list.

use std::cell::RefCell;

/// Bytes of a fresh buffer, the same as of a server connection's: the two change places when an answer is complete.
const SIZE: usize = 16 << 10;
/// A buffer that has grown beyond this is not kept.
const KEPT_MAX: usize = 128 << 10;
/// Buffers kept by each thread.
const FREE_MAX: usize = 64;

thread_local! {
    static FREE: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// An empty buffer.
pub(crate) fn take() -> Vec<u8> {
    FREE.with_borrow_mut(Vec::pop).unwrap_or_else(|| Vec::with_capacity(SIZE))
}

/// Takes a buffer back; its contents are gone.
pub(crate) fn give_back(mut buffer: Vec<u8>) {
    if !(SIZE..=KEPT_MAX).contains(&buffer.capacity()) {
        return;
    }
    buffer.clear();
    FREE.with_borrow_mut(|free| {
        if free.len() < FREE_MAX {
            free.push(buffer);
        }
    });
}
