//! A decoder-only transformer over bytes, from operations that candle can differentiate.

use candle_core::{D, DType, Device, Result, Tensor, Var};
use candle_nn::VarMap;

use crate::data::Random;

/// Every byte is a token.
pub const VOCABULARY: usize = 256;

/// Sizes of the model.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    pub width: usize,
    pub layers: usize,
    pub heads: usize,
}

struct Block {
    attention_norm: Var,
    query: Var,
    key: Var,
    value: Var,
    output: Var,
    mlp_norm: Var,
    up: Var,
    down: Var,
}

pub struct Model {
    sizes: Sizes,
    embedding: Var,
    blocks: Vec<Block>,
    norm: Var,
    head: Var,
    /// Causal mask and ALiBi (arXiv 2108.12409), which stands in for a position embedding: (heads, seq, seq).
    bias: Tensor,
}

/// Makes variables by name. candle's own initialisers draw from an unseeded generator on the CPU.
struct Maker<'a> {
    vars: &'a VarMap,
    random: Random,
}

impl Maker<'_> {
    fn insert(&self, name: &str, values: Vec<f32>, shape: &[usize]) -> Result<Var> {
        let var = Var::from_vec(values, shape, &Device::Cpu)?;
        let mut map = self.vars.data().lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        map.insert(name.to_owned(), var.clone());
        Ok(var)
    }

    /// (fan_out, fan_in), normally distributed.
    fn matrix(&mut self, name: &str, rows: usize, columns: usize, deviation: f64) -> Result<Var> {
        let values = (0..rows * columns).map(|_| (self.random.normal() * deviation) as f32).collect();
        self.insert(name, values, &[rows, columns])
    }

    fn ones(&self, name: &str, len: usize) -> Result<Var> {
        self.insert(name, vec![1.0; len], &[len])
    }
}

impl Model {
    /// Adds all variables to `vars`; a pure function of sizes and seed.
    pub fn new(sizes: Sizes, seq: usize, seed: u64, vars: &VarMap) -> Result<Self> {
        let d = sizes.width;
        let mut make = Maker { vars, random: Random::new(seed, u64::MAX) };
        let fan_in = |n: usize| (n as f64).powf(-0.5);
        let embedding = make.matrix("embedding.weight", VOCABULARY, d, 1.0)?;
        let mut blocks = vec![];
        for i in 0..sizes.layers {
            let name = |part: &str| format!("blocks.{i}.{part}.weight");
            blocks.push(Block {
                attention_norm: make.ones(&name("attention_norm"), d)?,
                query: make.matrix(&name("attention.query"), d, d, fan_in(d))?,
                key: make.matrix(&name("attention.key"), d, d, fan_in(d))?,
                value: make.matrix(&name("attention.value"), d, d, fan_in(d))?,
                // Blocks start as the identity.
                output: make.matrix(&name("attention.output"), d, d, 0.0)?,
                mlp_norm: make.ones(&name("mlp_norm"), d)?,
                up: make.matrix(&name("mlp.up"), 4 * d, d, fan_in(d))?,
                down: make.matrix(&name("mlp.down"), d, 4 * d, 0.0)?,
            });
        }
        let norm = make.ones("norm.weight", d)?;
        let head = make.matrix("head.weight", VOCABULARY, d, 0.02)?;
        Ok(Self { sizes, embedding, blocks, norm, head, bias: attention_bias(sizes.heads, seq)? })
    }

    /// Mean cross-entropy in nats of `targets` (batch * seq) after `inputs` (batch, seq).
    pub fn loss(&self, inputs: &Tensor, targets: &Tensor) -> Result<Tensor> {
        let (batch, seq) = inputs.dims2()?;
        let mut x = self.embedding.index_select(&inputs.flatten_all()?, 0)?;
        for block in &self.blocks {
            x = (&x + self.attention(block, &rms_norm(&x, &block.attention_norm)?, batch, seq)?)?;
            let up = linear(&rms_norm(&x, &block.mlp_norm)?, &block.up)?;
            x = (&x + linear(&up.relu()?.sqr()?, &block.down)?)?;
        }
        let logits = linear(&rms_norm(&x, &self.norm)?, &self.head)?;
        candle_nn::loss::cross_entropy(&logits, targets)
    }

    fn attention(&self, block: &Block, x: &Tensor, batch: usize, seq: usize) -> Result<Tensor> {
        let (heads, width) = (self.sizes.heads, self.sizes.width / self.sizes.heads);
        let split = |weight: &Var| {
            linear(x, weight)?.reshape((batch, seq, heads, width))?.transpose(1, 2)?.contiguous()
        };
        let (query, key, value) = (split(&block.query)?, split(&block.key)?, split(&block.value)?);
        let scores = (query.matmul(&key.t()?)? * (width as f64).powf(-0.5))?.broadcast_add(&self.bias)?;
        let mixed = softmax(&scores)?.matmul(&value)?;
        linear(&mixed.transpose(1, 2)?.reshape((batch * seq, heads * width))?, &block.output)
    }
}

fn linear(x: &Tensor, weight: &Var) -> Result<Tensor> {
    x.matmul(&weight.t()?)
}

/// `candle_nn::ops::rms_norm` is a custom operation without a backward pass.
fn rms_norm(x: &Tensor, weight: &Var) -> Result<Tensor> {
    let scale = (x.sqr()?.mean_keepdim(D::Minus1)? + 1e-6)?.sqrt()?.recip()?;
    x.broadcast_mul(&scale)?.broadcast_mul(weight)
}

/// As `candle_nn::ops::softmax`, without differentiating the maximum: its gradient is zero.
fn softmax(x: &Tensor) -> Result<Tensor> {
    let exp = x.broadcast_sub(&x.detach().max_keepdim(D::Minus1)?)?.exp()?;
    exp.broadcast_div(&exp.sum_keepdim(D::Minus1)?)
}

fn attention_bias(heads: usize, seq: usize) -> Result<Tensor> {
    let mut values = Vec::with_capacity(heads * seq * seq);
    for head in 1..=heads {
        let slope = (-8.0 * head as f32 / heads as f32).exp2();
        for to in 0..seq {
            values.extend(
                (0..seq).map(|from| if from > to { -1e9 } else { slope * (from as f32 - to as f32) }),
            );
        }
    }
    Tensor::from_vec(values, (heads, seq, seq), &Device::Cpu)?.to_dtype(DType::F32)
}
