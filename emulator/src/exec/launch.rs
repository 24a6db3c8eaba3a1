//! Launches: blocks on all cores where they cannot learn of each other, else interleaved on one thread.

use super::block::{Block, Progress, Random};
use super::counters::{Counters, Tally};
use super::env::Env;
use super::fault::{Fault, Stop};
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};

/// Executes a launch. `threads`: how many may be used.
pub(crate) fn run(env: &Env<'_>, threads: usize) -> Result<Counters, Box<Fault>> {
    let printed = Mutex::new(Vec::new());
    let tallies = match env.kernel.communicates {
        true => interleaved(env, &printed).map(|tally| vec![tally]),
        false => parallel(env, threads, &printed),
    };
    deliver(env, printed);
    let mut counters = Counters { blocks: env.blocks(), ..Counters::default() };
    counters.warps = env.blocks() * env.warps() as u64;
    tallies?.iter().for_each(|tally| tally.add_to(&mut counters));
    Ok(counters)
}

/// What blocks have printed: position in the order of execution, number, text.
type Printed = Mutex<Vec<(u64, u64, Vec<u8>)>>;

/// Takes what a block has printed so far.
fn collect(printed: &Printed, position: u64, block: &mut Block) {
    if !block.state.printed.is_empty() {
        let text = std::mem::take(&mut block.state.printed);
        let mut all = printed.lock().unwrap_or_else(PoisonError::into_inner);
        all.push((position, block.state.index, text));
    }
}

/// Hands the texts over, in the order of the blocks' numbers whatever order they ran in.
fn deliver(env: &Env<'_>, printed: Printed) {
    let mut texts = printed.into_inner().unwrap_or_else(PoisonError::into_inner);
    texts.sort_by_key(|&(_, block, _)| block);
    let mut sink = env.printed.lock().unwrap_or_else(PoisonError::into_inner);
    texts.into_iter().for_each(|(_, _, text)| sink.extend(text));
}

/// The order of blocks: a permutation of `0..n` that takes no memory.
struct Shuffled {
    n: u64,
    step: u64,
    start: u64,
}

impl Shuffled {
    fn new(n: u64, seed: u64) -> Shuffled {
        if seed == 0 || n < 2 {
            return Shuffled { n, step: 1, start: 0 };
        }
        let mut random = Random::new(seed, u64::MAX);
        let gcd = |mut a: u64, mut b: u64| {
            while b != 0 {
                (a, b) = (b, a % b);
            }
            a
        };
        let mut step = random.next() % n;
        while gcd(step, n) != 1 {
            step = random.next() % n;
        }
        Shuffled { n, step, start: random.next() % n }
    }

    fn at(&self, position: u64) -> u64 {
        let at = u128::from(position) * u128::from(self.step) + u128::from(self.start);
        (at % u128::from(self.n.max(1))) as u64
    }
}

/// Every thread takes the next block. Of several faults the one of the block that comes first is reported, so blocks
/// before it are still executed.
fn parallel(env: &Env<'_>, threads: usize, printed: &Printed) -> Result<Vec<Tally>, Box<Fault>> {
    let order = Shuffled::new(env.blocks(), env.seed);
    let blocks = env.blocks();
    let (next, end) = (AtomicU64::new(0), AtomicU64::new(blocks));
    let first: Mutex<Option<(u64, Stop)>> = Mutex::new(None);
    // Neighbours are taken together: their accesses are neighbours too.
    let chunk = (blocks / (threads as u64 * 16)).clamp(1, 16);
    let work = || {
        let mut tally = Tally::default();
        let mut block: Option<Block> = None;
        loop {
            let from = next.fetch_add(chunk, Ordering::Relaxed);
            if from >= end.load(Ordering::Relaxed) {
                return tally;
            }
            for position in from..(from + chunk).min(blocks) {
                if position >= end.load(Ordering::Relaxed) {
                    break;
                }
                let index = order.at(position);
                let block = match &mut block {
                    Some(block) => {
                        block.restart(env, index);
                        block
                    }
                    None => block.insert(Block::new(env, index)),
                };
                let result = block.run(env, &mut tally);
                collect(printed, position, block);
                if let Err(fault) = result {
                    end.fetch_min(position, Ordering::Relaxed);
                    let mut first = first.lock().unwrap_or_else(PoisonError::into_inner);
                    if first.as_ref().is_none_or(|(at, _)| position < *at) {
                        *first = Some((position, fault));
                    }
                }
            }
        }
    };
    let workers = (threads as u64).min(blocks.div_ceil(chunk)).max(1);
    let tallies = match workers {
        1 => vec![work()],
        _ => std::thread::scope(|scope| {
            let others: Vec<_> = (1..workers).map(|_| scope.spawn(work)).collect();
            let mut tallies = vec![work()];
            for other in others {
                match other.join() {
                    Ok(tally) => tallies.push(tally),
                    Err(panic) => std::panic::resume_unwind(panic),
                }
            }
            tallies
        }),
    };
    match first.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some((at, fault)) => {
            // Blocks behind it may have run or not: nothing of them is shown.
            let mut printed = printed.lock().unwrap_or_else(PoisonError::into_inner);
            printed.retain(|&(position, ..)| position <= at);
            Err(fault)
        }
        None => Ok(tallies),
    }
}

/// As many blocks as are resident on the card take turns. A block begins when all that have begun wait, or, with a
/// seed, at any time.
fn interleaved(env: &Env<'_>, printed: &Printed) -> Result<Tally, Box<Fault>> {
    let mut active = Vec::<Block>::new();
    let result = take_turns(env, &mut active, printed);
    // If all went well none is left.
    active.iter_mut().for_each(|block| collect(printed, 0, block));
    result
}

fn take_turns(env: &Env<'_>, active: &mut Vec<Block>, printed: &Printed) -> Result<Tally, Box<Fault>> {
    let order = Shuffled::new(env.blocks(), env.seed);
    let resident = env.card.resident_blocks(env.threads(), env.shared_bytes() as u32, env.kernel.registers);
    let capacity = resident.max(1) as usize;
    let mut random = Random::new(env.seed, 1 << 63);
    let mut tally = Tally::default();
    let mut idle = Vec::<Block>::new();
    let (mut next, mut fruitless, mut seen) = (0, 0, 0);
    let mut finished = 0u64;
    while next < env.blocks() || !active.is_empty() {
        let (mut running, mut at) = (false, 0);
        if env.seed != 0 {
            random.shuffle(active);
        }
        while at < active.len() {
            match active[at].round(env, &mut tally)? {
                Progress::Done => {
                    // Its changes count as one more, so that the sum never stands still by chance.
                    let mut block = active.remove(at);
                    collect(printed, 0, &mut block);
                    finished += block.state.progress + 1;
                    idle.push(block);
                    continue;
                }
                Progress::Running => running = true,
                Progress::Spinning => {}
                Progress::Stuck => return Err(active[at].deadlock(env, active[at].waiting(env))),
            }
            at += 1;
        }
        let progress = finished + active.iter().map(|block| block.state.progress).sum::<u64>();
        let eager = env.seed != 0 && random.below(3) == 0;
        if next < env.blocks() && active.len() < capacity && (eager || !running) {
            let index = order.at(next);
            active.push(match idle.pop() {
                Some(mut block) => {
                    block.restart(env, index);
                    block
                }
                None => Block::new(env, index),
            });
            next += 1;
            fruitless = 0;
            continue;
        }
        let waits = progress == seen && active.iter().all(Block::waits);
        fruitless = if waits { fruitless + 1 } else { 0 };
        seen = progress;
        if fruitless > env.hopeless_rounds()
            && let Some(block) = active.first()
        {
            let mut waiting: Vec<String> = active.iter().flat_map(|block| block.waiting(env)).collect();
            if next < env.blocks() {
                waiting.push(format!(
                    "{} more blocks wait for one of these to end: the card holds {capacity} at once",
                    env.blocks() - next
                ));
            }
            return Err(block.deadlock(env, waiting));
        }
    }
    Ok(tally)
}
