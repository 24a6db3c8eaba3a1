//! User objects: what callers want to be told about when no graph needs it any more.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::order::Record;
use super::raw::Callback;
use super::state::State;
use super::work::Work;
use super::{Answer, Refusal, codes};

/// Whose references are counted.
pub(crate) struct UserObject {
    pub context: u64,
    /// Called when the last reference is gone.
    pub destroy: Callback,
    pub references: u64,
    /// Launches of executables that had references, and were destroyed.
    pub used_by: Vec<Arc<Record>>,
}

/// References that a graph holds, by object.
pub(crate) type Held = BTreeMap<u64, u64>;

impl State {
    pub fn object(&mut self, handle: u64) -> Answer<&mut UserObject> {
        self.objects.get_mut(handle).ok_or_else(|| codes::INVALID_VALUE.into())
    }

    /// Another holder of the same references.
    pub fn retain_all(&mut self, held: &Held) {
        for (&handle, &count) in held {
            if let Some(object) = self.objects.get_mut(handle) {
                object.references += count;
            }
        }
    }

    /// A holder is gone; what it launched last is still to use the objects.
    pub fn release_all(&mut self, held: Held, last: Option<&Arc<Record>>) {
        for (handle, count) in held {
            if let Some(object) = self.objects.get_mut(handle) {
                object.used_by.extend(last.filter(|record| record.done().is_none()).cloned());
            }
            _ = self.release(handle, count);
        }
    }

    /// Takes references away. After the last the object is destroyed, as soon as nothing that runs may use it.
    pub fn release(&mut self, handle: u64, count: u64) -> Answer {
        let object = self.object(handle)?;
        if count == 0 || count > object.references {
            return Err(Refusal::new(codes::INVALID_VALUE, "more references than there are"));
        }
        object.references -= count;
        if object.references > 0 {
            return Ok(());
        }
        let Some(object) = self.objects.remove(handle) else { return Ok(()) };
        if object.used_by.is_empty() || self.context(object.context).is_err() {
            self.hand_over(0, object.destroy, codes::SUCCESS);
            return Ok(());
        }
        self.add(object.context, Work::Call(object.destroy), object.used_by)?;
        self.drift();
        Ok(())
    }
}
