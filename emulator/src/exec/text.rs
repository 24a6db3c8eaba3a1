//! Texts: parsed once and lowered once for all machines of a process. Programs that begin anew load the same few again and again.

use super::fault::Place;
use super::image::kernel;
use super::lower::{LoadResult, spelled};
use super::program::Kernel;
use crate::ptx::{self, FuncId, Module, VarId};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

/// The kernels of a module, by name.
pub(crate) type Kernels = BTreeMap<String, Kernel>;

/// A module and what became of its kernels, which are the same wherever what they mention lies at the same addresses.
pub(crate) struct Program {
    pub module: Module,
    /// Variables that code names, whose addresses are part of what it becomes.
    mentioned: BTreeSet<VarId>,
    /// What [`place`] knows the first instruction of each function by.
    first_places: Vec<u32>,
    lowered: Mutex<Option<Lowered>>,
}

struct Lowered {
    addresses: HashMap<VarId, u64>,
    kernels: Arc<Kernels>,
}

impl Program {
    /// Parses a text, or remembers it.
    pub fn of(text: &[u8]) -> Result<Arc<Program>, ptx::Error> {
        const KEPT: usize = 16;
        /// The one used last comes first.
        static RECENT: Mutex<Vec<(Vec<u8>, Arc<Program>)>> = Mutex::new(Vec::new());
        let mut recent = RECENT.lock().unwrap_or_else(PoisonError::into_inner);
        let known = recent.iter().position(|(known, _)| known == text);
        let entry = match known {
            Some(at) => recent.remove(at),
            None => (text.to_vec(), Arc::new(Program::new(ptx::parse_bytes(text)?))),
        };
        let program = entry.1.clone();
        recent.insert(0, entry);
        recent.truncate(KEPT);
        Ok(program)
    }

    fn new(module: Module) -> Program {
        let bodies = module.functions.iter().filter_map(|function| function.body.as_ref());
        let mentioned = bodies.flat_map(super::image::mentioned_by).collect();
        let first_places = number(&module);
        Program { module, mentioned, first_places, lowered: Mutex::new(None) }
    }

    /// The kernels, where variables of global and constant memory have these addresses.
    pub fn kernels(&self, mut addresses: HashMap<VarId, u64>) -> LoadResult<Arc<Kernels>> {
        addresses.retain(|id, _| self.mentioned.contains(id));
        let mut lowered = self.lowered.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = lowered.as_ref().filter(|known| known.addresses == addresses) {
            return Ok(known.kernels.clone());
        }
        let mut kernels = Kernels::new();
        for (index, function) in self.module.functions.iter().enumerate() {
            if function.entry && function.body.is_some() {
                let kernel = kernel(self, FuncId(index as u32), &addresses)?;
                kernels.insert(function.name.clone(), kernel);
            }
        }
        let kernels = Arc::new(kernels);
        *lowered = Some(Lowered { addresses, kernels: kernels.clone() });
        Ok(kernels)
    }

    /// What [`place`] knows an instruction by.
    pub fn source(&self, function: FuncId, instruction: usize) -> u32 {
        self.first_places.get(function.0 as usize).map_or(u32::MAX, |first| first + instruction as u32)
    }
}

/// The positions of every text that was ever parsed: accesses of earlier launches still name theirs.
static PLACES: RwLock<Vec<Place>> = RwLock::new(Vec::new());

/// The position that has a number.
pub(crate) fn place(source: u32) -> Option<Place> {
    PLACES.read().unwrap_or_else(PoisonError::into_inner).get(source as usize).cloned()
}

/// Numbers all instructions of a module; where those of each function begin.
fn number(module: &Module) -> Vec<u32> {
    let mut places = PLACES.write().unwrap_or_else(PoisonError::into_inner);
    let mut first = Vec::with_capacity(module.functions.len());
    for function in &module.functions {
        first.push(places.len() as u32);
        let Some(body) = &function.body else { continue };
        places.extend(body.instructions.iter().enumerate().map(|(index, instruction)| {
            let mut place = Place::of(&function.name, instruction.pos);
            place.instruction = spelled(module, instruction);
            if let Some(loc) = body.loc(index) {
                place.file = module.file(loc.file).map(str::to_string);
                place.line = loc.line;
                place.inlined_at = loc.inlined.and_then(|i| Some((module.file(i.file)?.to_string(), i.line)));
            }
            place
        }));
    }
    first
}
