//! Parameters of models, as tables of shapes.

use orthant::{Algorithm, Group, Splits};

/// `count` tensors of a shape; `%` in the name stands for their number.
type Entry = (usize, &'static str, &'static [usize]);

/// The parameters of a model.
pub struct ModelShapes {
    pub name: &'static str,
    /// Matrices that are orthogonalised, each of them three where their name says `qkv`.
    hidden: &'static [Entry],
    /// Embeddings and vectors.
    rest: &'static [Entry],
}

/// GPT-2's 124 M parameters (12 layers of 768; 48 hidden matrices, 72 with c_attn split); Llama-3.2-1B (16 layers of 2048,
/// 8 key heads of 64) and Llama-2-7B (32 layers of 4096); the experts of a layer with 64 of 1408; a small convolutional network
/// with inverted bottlenecks: 126 matrices with sides of 8 to 512.
pub const MODELS: [ModelShapes; 5] = [
    ModelShapes {
        name: "gpt2-124m",
        hidden: &[
            (12, "h.%.attn.qkv", &[2304, 768]),
            (12, "h.%.attn.c_proj", &[768, 768]),
            (12, "h.%.mlp.c_fc", &[3072, 768]),
            (12, "h.%.mlp.c_proj", &[768, 3072]),
        ],
        rest: &[
            (1, "wte", &[50_257, 768]),
            (1, "wpe", &[1024, 768]),
            (12, "h.%.attn.bias", &[2304]),
            (12, "h.%.mlp.c_fc.bias", &[3072]),
            (74, "vector.%", &[768]),
        ],
    },
    ModelShapes {
        name: "llama-1b",
        hidden: &[
            (32, "attn.%.q_o", &[2048, 2048]),
            (32, "attn.%.k_v", &[512, 2048]),
            (32, "mlp.%.gate_up", &[8192, 2048]),
            (16, "mlp.%.down", &[2048, 8192]),
        ],
        rest: &[(1, "embedding", &[128_256, 2048]), (33, "norm.%", &[2048])],
    },
    ModelShapes {
        name: "llama-7b",
        hidden: &[
            (128, "attn.%.q_k_v_o", &[4096, 4096]),
            (64, "mlp.%.gate_up", &[11_008, 4096]),
            (32, "mlp.%.down", &[4096, 11_008]),
        ],
        rest: &[(1, "embedding", &[32_000, 4096]), (1, "head", &[32_000, 4096]), (65, "norm.%", &[4096])],
    },
    ModelShapes {
        name: "moe-experts",
        hidden: &[
            (1, "experts.gate", &[64, 1408, 2048]),
            (1, "experts.up", &[64, 1408, 2048]),
            (1, "experts.down", &[64, 2048, 1408]),
        ],
        rest: &[(1, "norm", &[2048])],
    },
    ModelShapes {
        name: "cnn-126",
        hidden: &[
            (1, "stem", &[16, 3, 3, 3]),
            (4, "stage0.%.conv", &[8, 8, 3, 3]),
            (16, "stage1.%.expand", &[64, 16, 1, 1]),
            (16, "stage1.%.project", &[16, 64, 1, 1]),
            (16, "stage2.%.expand", &[128, 24, 1, 1]),
            (16, "stage2.%.project", &[24, 128, 1, 1]),
            (20, "stage3.%.expand", &[192, 32, 1, 1]),
            (20, "stage3.%.project", &[32, 192, 1, 1]),
            (4, "stage4.%.conv", &[40, 40, 3, 3]),
            (6, "stage5.%.expand", &[320, 64, 1, 1]),
            (6, "stage5.%.project", &[64, 320, 1, 1]),
            (1, "last.fc", &[512, 64]),
        ],
        rest: &[(126, "bias.%", &[64]), (1, "head", &[10, 512])],
    },
];

/// Vectors, splits, a batch and convolutions in little.
#[cfg(test)]
pub const TINY: ModelShapes = ModelShapes {
    name: "tiny",
    hidden: &[(2, "%.qkv", &[48, 20]), (1, "experts", &[3, 10, 33]), (3, "%.conv", &[8, 4, 3, 3])],
    rest: &[(2, "bias.%", &[48])],
};

impl ModelShapes {
    /// Names and shapes of all tensors.
    pub fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let named = |kind: &'static str, entries: &'static [Entry]| {
            entries.iter().flat_map(move |(count, name, shape)| {
                (0..*count)
                    .map(move |i| (format!("{kind}.{}", name.replace('%', &i.to_string())), shape.to_vec()))
            })
        };
        named("hidden", self.hidden).chain(named("rest", self.rest)).collect()
    }

    /// Muon for the hidden matrices, AdamW for the rest.
    pub fn groups(&self, muon: &Algorithm) -> Vec<Group> {
        let qkv = "hidden.*.qkv";
        let hidden = Group::new("hidden", muon.clone()).lr(0.02).params(["hidden.*"]);
        let rest = Group::new("rest", Algorithm::adamw()).lr(3e-4).params(["rest.*"]);
        if self.hidden.iter().any(|(_, name, _)| name.ends_with("qkv")) {
            let split = Group::new("qkv", muon.clone()).lr(0.02).params([qkv]).splits(Splits::Equal(3));
            return vec![split, hidden, rest];
        }
        vec![hidden, rest]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use orthant::{Dtype, ParameterSpec, Plan};

    #[test]
    fn the_tables_have_the_models_parameters() {
        let expected = [
            ("gpt2-124m", 124_439_808, 72),
            ("llama-1b", 1_235_814_400, 112),
            ("llama-7b", 6_738_415_616, 224),
            ("moe-experts", 553_650_176, 192),
            ("cnn-126", 0, 126),
        ];
        for (model, (name, parameters, matrices)) in MODELS.iter().zip(expected) {
            assert_eq!(model.name, name);
            let tensors = model.tensors();
            let sum: usize = tensors.iter().map(|(_, shape)| shape.iter().product::<usize>()).sum();
            assert!(parameters == 0 || sum == parameters, "{name}: {sum}");
            let spec = |(name, shape): (String, Vec<usize>)| ParameterSpec {
                name,
                shape,
                dtype: Dtype::Bf16,
                grad_dtype: Some(Dtype::Bf16),
            };
            let specs = tensors.into_iter().map(spec).collect();
            let plan = Plan::new(model.groups(&Algorithm::muon()), specs, None).expect("legal");
            let hidden = |p: &&orthant::plan::PlannedParameter| p.spec.name.starts_with("hidden");
            let found: usize = plan.parameters.iter().filter(hidden).map(|p| p.matrices.len()).sum();
            assert_eq!(found, matrices, "{name}");
        }
    }
}
