//! Tensors in device memory: at chosen distances from a boundary, with gaps between rows, and with bytes around them that
//! nobody may touch.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use orthant::config::Config;
use orthant::cuda::{Context, DeviceBuffer, Stream};
use orthant::{Device, DeviceTensor, Dtype, Optimizer, Parameter, Storage, Tensor};

use crate::noise::Noise;
use crate::parity::{SLOTS, Set};
use crate::{context, device};

const CANARY: u8 = 0xa5;
/// Canaries before the first byte that a view may take; a multiple of 16, so that a skew is a skew.
const BEFORE: usize = 64;

/// A context and a stream in it.
pub struct Card {
    pub context: Context,
    pub stream: Arc<Stream>,
}

impl Card {
    pub fn new() -> Card {
        Card::of(context().expect("a context"))
    }

    pub fn of(context: Context) -> Card {
        let stream = Arc::new(Stream::new(&context).expect("a stream"));
        Card { context, stream }
    }

    /// Memory for `len` elements, full of canaries.
    pub fn block(&self, dtype: Dtype, len: usize) -> Rc<Block> {
        let bytes = BEFORE + len * dtype.size() + BEFORE;
        let buffer = DeviceBuffer::new(&self.context, bytes).expect("memory");
        buffer.write(&self.stream, 0, &vec![CANARY; bytes]).expect("written");
        let covered = RefCell::new(vec![false; bytes]);
        Rc::new(Block { buffer, stream: self.stream.clone(), dtype, covered })
    }

    /// A tensor `skew` elements behind a boundary, with `gap` elements between its rows.
    pub fn tensor(&self, values: &Storage, shape: &[usize], skew: usize, gap: usize) -> View {
        let strides = match shape {
            &[_, columns] if gap > 0 => vec![columns + gap, 1],
            _ => vec![],
        };
        let rows = if strides.is_empty() { 0 } else { shape[0] };
        let block = self.block(values.dtype(), skew + values.len() + rows * gap);
        let view = block.view(skew, shape, &strides);
        view.write(values);
        view
    }
}

/// Device memory that views lie in.
pub struct Block {
    pub buffer: DeviceBuffer,
    stream: Arc<Stream>,
    dtype: Dtype,
    /// Bytes that belong to a view.
    covered: RefCell<Vec<bool>>,
}

impl Block {
    pub fn view(self: &Rc<Self>, at: usize, shape: &[usize], strides: &[usize]) -> View {
        let size = self.dtype.size();
        let start = BEFORE + at * size;
        let address = self.buffer.address() + start as u64;
        #[allow(unsafe_code, reason = "memory that the block owns")]
        // SAFETY: every view holds its block, and the tests hold the views for as long as something steps on them.
        let tensor = unsafe {
            match strides {
                [] => DeviceTensor::new(address, self.dtype, shape),
                _ => DeviceTensor::strided(address, self.dtype, shape, strides),
            }
        };
        let view = View { tensor: tensor.expect("a tensor"), block: self.clone(), start };
        for byte in view.places() {
            self.covered.borrow_mut()[byte..byte + size].fill(true);
        }
        view
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.buffer.bytes()];
        self.buffer.read(&self.stream, 0, &mut bytes).expect("read");
        bytes
    }
}

/// A tensor in a block.
pub struct View {
    pub tensor: DeviceTensor,
    pub block: Rc<Block>,
    start: usize,
}

impl View {
    /// Where in the block each element begins.
    fn places(&self) -> Vec<usize> {
        let size = self.tensor.dtype().size();
        let columns = self.tensor.shape().last().copied().unwrap_or(1);
        let place = |i: usize| match self.tensor.row_stride() {
            Some(stride) => i / columns * stride + i % columns,
            None => i,
        };
        (0..self.tensor.numel()).map(|i| self.start + place(i) * size).collect()
    }

    /// The elements, contiguous ones, in a stream's order.
    pub fn send(&self, stream: &Stream, values: &Storage) {
        self.block.buffer.write(stream, self.start, values.as_le_bytes()).expect("given");
    }

    pub fn write(&self, values: &Storage) {
        let (size, mut bytes) = (self.tensor.dtype().size(), self.block.bytes());
        for (to, from) in self.places().into_iter().zip(values.as_le_bytes().chunks(size)) {
            bytes[to..to + size].copy_from_slice(from);
        }
        self.block.buffer.write(&self.block.stream, 0, &bytes).expect("written");
        self.block.stream.synchronize().expect("written");
    }

    /// The elements, after a look at the canaries around them.
    #[track_caller]
    pub fn read(&self) -> Storage {
        let (size, bytes) = (self.tensor.dtype().size(), self.block.bytes());
        let covered = self.block.covered.borrow();
        let touched = bytes.iter().zip(&*covered).position(|(&byte, &covered)| !covered && byte != CANARY);
        assert_eq!(touched, None, "a byte that belongs to no tensor was written");
        let values: Vec<u8> = self.places().iter().flat_map(|&at| bytes[at..at + size].to_vec()).collect();
        Storage::from_le_bytes(self.tensor.dtype(), &values).expect("whole elements")
    }
}

/// Where the tensors of a set lie.
#[derive(Clone, Copy, Default)]
pub struct Layout {
    pub skew: usize,
    pub gradient_skew: usize,
    pub gap: usize,
    pub gradient_gap: usize,
}

/// A set of parameters with its gradients on a card, and the same on the host.
pub struct OnCard {
    pub host: Set,
    pub data: Vec<View>,
    pub grads: Vec<View>,
    pub previous: Vec<View>,
}

impl OnCard {
    /// A copy of the host's tensors.
    pub fn new(card: &Card, host: &Set, layout: Layout) -> OnCard {
        let place = |tensors: &[Tensor], skew: usize, gap: usize| -> Vec<View> {
            tensors.iter().map(|t| card.tensor(&t.to_storage(), t.shape(), skew, gap)).collect()
        };
        OnCard {
            host: host.copy(),
            data: place(&host.data, layout.skew, layout.gap),
            grads: place(&host.grads, layout.gradient_skew, layout.gradient_gap),
            previous: place(&host.previous, layout.skew, layout.gradient_gap),
        }
    }

    pub fn parameters(&self, config: &Config) -> Vec<Parameter> {
        let previous = config.groups.iter().any(|g| g.algorithm().needs_previous_gradient());
        let one = |(i, name): (usize, &String)| {
            let parameter = Parameter::new(name.as_str(), self.data[i].tensor.clone());
            let parameter = parameter.grad(self.grads[i].tensor.clone());
            if previous { parameter.prev_grad(self.previous[i].tensor.clone()) } else { parameter }
        };
        self.host.names.iter().enumerate().map(one).collect()
    }

    pub fn optimizer(&self, card: &Card, config: &Config) -> Optimizer {
        let builder = Optimizer::builder(device()).groups(config.groups.clone()).options(config.options);
        let registered = builder.stream(card.stream.clone()).register(self.parameters(config));
        registered.unwrap_or_else(|e| panic!("{e}"))
    }

    /// New gradients here and in the set that the CPU steps on.
    pub fn renew(&self, cpu: &Set, noise: &mut Noise) {
        cpu.renew(&self.host, noise);
        self.send_gradients();
    }

    /// The host's gradients, to the card.
    pub fn send_gradients(&self) {
        let both =
            self.grads.iter().zip(&self.host.grads).chain(self.previous.iter().zip(&self.host.previous));
        both.for_each(|(view, tensor)| view.write(&tensor.to_storage()));
    }
}

pub fn steps_by(optimizer: &mut Optimizer) -> orthant::Result<()> {
    optimizer.step()?;
    optimizer.synchronize()?;
    optimizer.status().map(drop)
}

/// Whether the CPU's set and the card's hold the same bits, and gradients are what they were.
#[track_caller]
pub fn assert_same(what: &str, (cpu, a): (&Set, &Optimizer), (card, b): (&OnCard, &Optimizer)) {
    for (i, name) in cpu.names.iter().enumerate() {
        let shape = cpu.data[i].shape();
        let (x, y) = (cpu.data[i].to_storage(), card.data[i].read());
        if x.as_le_bytes() != y.as_le_bytes() {
            let at = (0..x.len()).find(|&i| x.get_f64(i) != y.get_f64(i));
            let pair = at.map(|i| (i, x.get_f64(i), y.get_f64(i)));
            panic!("{what}: {name} {shape:?}: element, CPU, card: {pair:?}");
        }
        let gradients = [(&card.grads, &card.host.grads), (&card.previous, &card.host.previous)];
        for (views, tensors) in gradients {
            let (is, was) = (views[i].read(), tensors[i].to_storage());
            assert_eq!(is.as_le_bytes(), was.as_le_bytes(), "{what}: {name} {shape:?}: a gradient changed");
        }
        assert_same_state(what, name, a, b);
    }
}

/// Whether the state of a parameter has the same bits in both.
#[track_caller]
pub fn assert_same_state(what: &str, name: &str, a: &Optimizer, b: &Optimizer) {
    for slot in SLOTS {
        let read = |o: &Optimizer| -> Option<Vec<u64>> {
            o.state(name, slot).expect("readable").map(|v| v.iter().map(|x| x.to_bits()).collect())
        };
        assert_eq!(read(a), read(b), "{what}: {name}: {}", slot.name());
    }
    assert_eq!(a.step_count(name), b.step_count(name), "{what}: {name}");
}

/// An optimizer on the CPU and one on the card with the same tensors.
pub struct Pair {
    pub reference: Optimizer,
    // Before the tensors: they go after the steps that work on them.
    pub optimizer: Optimizer,
    pub card: Card,
    pub cpu: Set,
    pub set: OnCard,
    pub noise: Noise,
}

impl Pair {
    pub fn new(config: &str, dtype: Dtype, grad: Dtype, shapes: &[Vec<usize>]) -> Pair {
        let config = Config::parse(config).unwrap_or_else(|e| panic!("{e}"));
        let mut noise = Noise(shapes.len() as u64);
        let cpu = Set::new(&mut noise, dtype, grad, shapes);
        let card = Card::new();
        let set = OnCard::new(&card, &cpu, Layout::default());
        let (reference, optimizer) = (cpu.optimizer(&config, Device::Cpu), set.optimizer(&card, &config));
        Pair { reference, optimizer, card, cpu, set, noise }
    }

    pub fn renew(&mut self) {
        self.set.renew(&self.cpu, &mut self.noise);
    }

    /// New gradients on the host; those on the card are for the test to send.
    pub fn renew_host(&mut self) {
        self.cpu.renew(&self.set.host, &mut self.noise);
        let previous = self.set.previous.iter().zip(&self.set.host.previous);
        previous.for_each(|(view, tensor)| view.write(&tensor.to_storage()));
    }

    /// The same call of both.
    #[track_caller]
    pub fn both(&mut self, call: impl Fn(&mut Optimizer) -> orthant::Result<()>) {
        call(&mut self.reference).unwrap_or_else(|e| panic!("CPU: {e}"));
        call(&mut self.optimizer).unwrap_or_else(|e| panic!("card: {e}"));
    }

    /// A step of both, with the same report.
    #[track_caller]
    pub fn step(&mut self, what: &str) {
        let expected = self.reference.step().unwrap_or_else(|e| panic!("{what}: CPU: {e}"));
        self.optimizer.step().unwrap_or_else(|e| panic!("{what}: card: {e}"));
        self.optimizer.synchronize().unwrap_or_else(|e| panic!("{what}: card: {e}"));
        let found = self.optimizer.status().unwrap_or_else(|e| panic!("{what}: card: {e}"));
        // As text: a norm may be NaN.
        assert_eq!(format!("{found:?}"), format!("{:?}", [expected]), "{what}");
        self.same(what);
    }

    #[track_caller]
    pub fn same(&self, what: &str) {
        assert_same(what, (&self.cpu, &self.reference), (&self.set, &self.optimizer));
        assert_eq!(self.reference.steps(), self.optimizer.steps(), "{what}");
        assert_eq!(self.reference.skipped_steps(), self.optimizer.skipped_steps(), "{what}");
    }
}
