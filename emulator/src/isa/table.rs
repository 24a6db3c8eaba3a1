//! Every register-only instruction.

use super::cx::{Cx, Result, Ty};
use super::{
    Class, Execute, approx, bits, carry, compare, convert, float, half, integer, logic, minmax, moves,
    select, video,
};

/// One instruction, or its forms of some types.
pub(super) struct Row {
    /// The opcode without modifiers.
    pub name: &'static str,
    /// What its last modifier may be; nothing here means anything.
    pub types: &'static [Ty],
    /// What it counts as.
    pub class: Class,
    /// Reads the modifiers and operands.
    pub decode: fn(&mut Cx) -> Result<Execute>,
}

const ANY: &[Ty] = &[];
const INT: &[Ty] = &[Ty::U16, Ty::S16, Ty::U32, Ty::S32, Ty::U64, Ty::S64];
const INT_PAIRS: &[Ty] = &[Ty::U16, Ty::S16, Ty::U32, Ty::S32, Ty::U64, Ty::S64, Ty::U16x2, Ty::S16x2];
const HALF: &[Ty] = &[Ty::F16, Ty::F16x2, Ty::Bf16, Ty::Bf16x2];
const F32: &[Ty] = &[Ty::F32];
const F64: &[Ty] = &[Ty::F64];

macro_rules! rows {
    ($($name:literal $types:ident $class:ident $module:ident::$function:ident;)*) => {
        /// In the order in which they are tried.
        pub(super) const ROWS: &[Row] =
            &[$(Row { name: $name, types: $types, class: Class::$class, decode: $module::$function },)*];
    };
}

rows! {
    "abs" INT IntegerAlu integer::abs;
    "abs" F32 FloatAlu32 float::abs32;
    "abs" F64 FloatAlu64 float::abs64;
    "abs" HALF HalfAlu half::abs;
    "add" INT_PAIRS IntegerAlu integer::add;
    "add" F32 FloatAlu32 float::add32;
    "add" F64 FloatAlu64 float::add64;
    "add" HALF HalfAlu half::add;
    "addc" ANY IntegerAlu carry::addc;
    "and" ANY Logic logic::and;
    "bfe" ANY IntegerAlu bits::bfe;
    "bfi" ANY IntegerAlu bits::bfi;
    "bfind" ANY IntegerAlu bits::bfind;
    "bmsk" ANY IntegerAlu bits::bmsk;
    "brev" ANY IntegerAlu bits::brev;
    "clz" ANY IntegerAlu bits::clz;
    "cnot" ANY Logic logic::cnot;
    "copysign" F32 FloatAlu32 float::copysign32;
    "copysign" F64 FloatAlu64 float::copysign64;
    "cos" F32 Special approx::cos32;
    "cvt" ANY Conversion convert::cvt;
    "div" INT IntegerAlu integer::div;
    "div" F32 FloatAlu32 float::div32;
    "div" F64 FloatAlu64 float::div64;
    "dp2a" ANY IntegerAlu integer::dp2a;
    "dp4a" ANY IntegerAlu integer::dp4a;
    "ex2" F32 Special approx::ex232;
    "ex2" HALF Special approx::ex2_half;
    "fma" F32 FloatAlu32 float::fma32;
    "fma" F64 FloatAlu64 float::fma64;
    "fma" HALF HalfAlu half::fma;
    "fns" ANY IntegerAlu bits::fns;
    "lg2" F32 Special approx::lg232;
    "lop3" ANY Logic logic::lop3;
    "mad" INT IntegerAlu integer::mad;
    "mad" F32 FloatAlu32 float::fma32;
    "mad" F64 FloatAlu64 float::fma64;
    "mad24" ANY IntegerAlu integer::mad24;
    "madc" ANY IntegerAlu carry::madc;
    "max" INT_PAIRS IntegerAlu integer::max;
    "max" F32 FloatAlu32 minmax::max32;
    "max" F64 FloatAlu64 minmax::max64;
    "max" HALF HalfAlu minmax::max_half;
    "min" INT_PAIRS IntegerAlu integer::min;
    "min" F32 FloatAlu32 minmax::min32;
    "min" F64 FloatAlu64 minmax::min64;
    "min" HALF HalfAlu minmax::min_half;
    "mov" ANY Move moves::mov;
    "mul" INT IntegerAlu integer::mul;
    "mul" F32 FloatAlu32 float::mul32;
    "mul" F64 FloatAlu64 float::mul64;
    "mul" HALF HalfAlu half::mul;
    "mul24" ANY IntegerAlu integer::mul24;
    "neg" INT IntegerAlu integer::neg;
    "neg" F32 FloatAlu32 float::neg32;
    "neg" F64 FloatAlu64 float::neg64;
    "neg" HALF HalfAlu half::neg;
    "not" ANY Logic logic::not;
    "or" ANY Logic logic::or;
    "popc" ANY IntegerAlu bits::popc;
    "prmt" ANY IntegerAlu bits::prmt;
    "rcp" F32 FloatAlu32 float::rcp32;
    "rcp" F64 FloatAlu64 float::rcp64;
    "rem" INT IntegerAlu integer::rem;
    "rsqrt" F32 Special approx::rsqrt32;
    "rsqrt" F64 Special approx::rsqrt64;
    "sad" INT IntegerAlu integer::sad;
    "selp" ANY Move select::selp;
    "set" ANY Compare compare::set;
    "setp" ANY Compare compare::setp;
    "shf" ANY Logic logic::shf;
    "shl" ANY Logic logic::shl;
    "shr" ANY Logic logic::shr;
    "sin" F32 Special approx::sin32;
    "slct" ANY Move select::slct;
    "sqrt" F32 FloatAlu32 float::sqrt32;
    "sqrt" F64 FloatAlu64 float::sqrt64;
    "sub" INT_PAIRS IntegerAlu integer::sub;
    "sub" F32 FloatAlu32 float::sub32;
    "sub" F64 FloatAlu64 float::sub64;
    "sub" HALF HalfAlu half::sub;
    "subc" ANY IntegerAlu carry::subc;
    "szext" ANY IntegerAlu bits::szext;
    "tanh" F32 Special approx::tanh32;
    "tanh" HALF Special approx::tanh_half;
    "testp" F32 Compare float::testp32;
    "testp" F64 Compare float::testp64;
    "vabsdiff2" ANY IntegerAlu video::vabsdiff2;
    "vabsdiff4" ANY IntegerAlu video::vabsdiff4;
    "vadd2" ANY IntegerAlu video::vadd2;
    "vadd4" ANY IntegerAlu video::vadd4;
    "vavrg2" ANY IntegerAlu video::vavrg2;
    "vavrg4" ANY IntegerAlu video::vavrg4;
    "vmax2" ANY IntegerAlu video::vmax2;
    "vmax4" ANY IntegerAlu video::vmax4;
    "vmin2" ANY IntegerAlu video::vmin2;
    "vmin4" ANY IntegerAlu video::vmin4;
    "vset2" ANY IntegerAlu video::vset2;
    "vset4" ANY IntegerAlu video::vset4;
    "vsub2" ANY IntegerAlu video::vsub2;
    "vsub4" ANY IntegerAlu video::vsub4;
    "xor" ANY Logic logic::xor;
}

/// The rows of one opcode.
pub(super) fn rows(opcode: &str) -> impl Iterator<Item = &'static Row> + use<'_> {
    ROWS.iter().filter(move |row| row.name == opcode)
}
