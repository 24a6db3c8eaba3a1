//! Special registers: read-only names that the machine provides.

/// A component of a vector register.
#[allow(missing_docs)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Axis {
    X,
    Y,
    Z,
    W,
}

impl Axis {
    /// The axis called `name`.
    pub fn from_name(name: &str) -> Option<Axis> {
        Some(match name {
            "x" => Axis::X,
            "y" => Axis::Y,
            "z" => Axis::Z,
            "w" => Axis::W,
            _ => return None,
        })
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        ["x", "y", "z", "w"][self as usize]
    }
}

macro_rules! special {
    (axes: $($vector:ident $vname:literal,)* ; scalars: $($scalar:ident $sname:literal $ty:ident,)*) => {
        /// A special register.
        #[allow(missing_docs)]
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Special {
            $($vector(Axis),)*
            $($scalar,)*
            /// `%envreg0` to `%envreg31`.
            Env(u8),
            /// `%pm0` to `%pm7`, 32 or 64 bits wide.
            Pm(u8, bool),
        }

        impl Special {
            /// Whether `name` is one that takes `.x`, `.y`, `.z` or `.w`.
            pub fn is_vector(name: &str) -> bool {
                matches!(name, $($vname)|*)
            }

            /// Component `axis` of the register called `name`.
            pub fn component(name: &str, axis: Axis) -> Option<Special> {
                Some(match name {
                    $($vname => Special::$vector(axis),)*
                    _ => return None,
                })
            }

            /// The scalar register called `name`.
            pub fn scalar(name: &str) -> Option<Special> {
                Some(match name {
                    $($sname => Special::$scalar,)*
                    _ => return Special::numbered(name),
                })
            }

            /// Its name as the text writes it.
            pub fn name(self) -> String {
                match self {
                    $(Special::$vector(axis) => format!("{}.{}", $vname, axis.name()),)*
                    $(Special::$scalar => $sname.to_string(),)*
                    Special::Env(n) => format!("%envreg{n}"),
                    Special::Pm(n, wide) => format!("%pm{n}{}", if wide { "_64" } else { "" }),
                }
            }

            /// Bits it holds; 1 for a predicate.
            pub fn bits(self) -> u32 {
                match self {
                    $(Special::$vector(_) => 32,)*
                    $(Special::$scalar => special!(@bits $ty),)*
                    Special::Env(_) => 32,
                    Special::Pm(_, wide) => if wide { 64 } else { 32 },
                }
            }
        }
    };
    (@bits u32) => { 32 };
    (@bits u64) => { 64 };
    (@bits pred) => { 1 };
}

special! {
    axes:
    Tid "%tid",
    Ntid "%ntid",
    Ctaid "%ctaid",
    Nctaid "%nctaid",
    Clusterid "%clusterid",
    Nclusterid "%nclusterid",
    ClusterCtaid "%cluster_ctaid",
    ClusterNctaid "%cluster_nctaid",
    ;
    scalars:
    Laneid "%laneid" u32,
    Warpid "%warpid" u32,
    Nwarpid "%nwarpid" u32,
    Smid "%smid" u32,
    Nsmid "%nsmid" u32,
    Gridid "%gridid" u64,
    IsExplicitCluster "%is_explicit_cluster" pred,
    ClusterCtarank "%cluster_ctarank" u32,
    ClusterNctarank "%cluster_nctarank" u32,
    LanemaskEq "%lanemask_eq" u32,
    LanemaskLe "%lanemask_le" u32,
    LanemaskLt "%lanemask_lt" u32,
    LanemaskGe "%lanemask_ge" u32,
    LanemaskGt "%lanemask_gt" u32,
    Clock "%clock" u32,
    ClockHi "%clock_hi" u32,
    Clock64 "%clock64" u64,
    Globaltimer "%globaltimer" u64,
    GlobaltimerLo "%globaltimer_lo" u32,
    GlobaltimerHi "%globaltimer_hi" u32,
    ReservedSmemOffsetBegin "%reserved_smem_offset_begin" u32,
    ReservedSmemOffsetEnd "%reserved_smem_offset_end" u32,
    ReservedSmemOffsetCap "%reserved_smem_offset_cap" u32,
    ReservedSmemOffset0 "%reserved_smem_offset_0" u32,
    ReservedSmemOffset1 "%reserved_smem_offset_1" u32,
    TotalSmemSize "%total_smem_size" u32,
    AggrSmemSize "%aggr_smem_size" u32,
    DynamicSmemSize "%dynamic_smem_size" u32,
    CurrentGraphExec "%current_graph_exec" u64,
}

impl Special {
    fn numbered(name: &str) -> Option<Special> {
        let number = |text: &str, below: u8| {
            let plain = !text.is_empty() && text.bytes().all(|c| c.is_ascii_digit());
            text.parse::<u8>()
                .ok()
                .filter(|&n| plain && n < below && text.len() == if n < 10 { 1 } else { 2 })
        };
        if let Some(rest) = name.strip_prefix("%envreg") {
            return number(rest, 32).map(Special::Env);
        }
        let rest = name.strip_prefix("%pm")?;
        let (digits, wide) = rest.strip_suffix("_64").map_or((rest, false), |digits| (digits, true));
        number(digits, 8).map(|n| Special::Pm(n, wide))
    }

    /// Whether `name` is a special register, vector or scalar.
    pub fn is_special(name: &str) -> bool {
        Special::is_vector(name) || Special::scalar(name).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        assert_eq!(Special::component("%tid", Axis::Y), Some(Special::Tid(Axis::Y)));
        assert_eq!(Special::scalar("%lanemask_lt"), Some(Special::LanemaskLt));
        assert_eq!(Special::scalar("%envreg31"), Some(Special::Env(31)));
        assert_eq!(Special::scalar("%pm3_64"), Some(Special::Pm(3, true)));
        for bad in ["%tid", "%envreg32", "%envreg01", "%pm8", "%pm", "%r1", "%laneid1"] {
            assert_eq!(Special::scalar(bad), None, "{bad}");
        }
        assert!(Special::is_vector("%tid") && !Special::is_vector("%laneid"));
        assert_eq!(
            (Special::Clock64.bits(), Special::Tid(Axis::X).bits(), Special::IsExplicitCluster.bits()),
            (64, 32, 1)
        );
    }
}
