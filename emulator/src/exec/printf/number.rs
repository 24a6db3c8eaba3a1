//! Numbers as C writes them.

use super::Spec;

/// `%d %i %u %o %x %X`
pub(super) fn integer(spec: &Spec, bits: u64) -> Vec<u8> {
    let shift = 64 - 8 * spec.bytes.clamp(1, 8) as u32;
    let signed = matches!(spec.conversion, b'd' | b'i');
    let value = (bits << shift) as i64 >> shift;
    let (negative, size) = match signed {
        true => (value < 0, value.unsigned_abs()),
        false => (false, bits << shift >> shift),
    };
    let mut digits = match spec.conversion {
        b'o' => format!("{size:o}"),
        b'x' => format!("{size:x}"),
        b'X' => format!("{size:X}"),
        _ => size.to_string(),
    };
    if spec.precision == Some(0) && size == 0 {
        digits.clear();
    }
    let missing = spec.precision.unwrap_or(0).saturating_sub(digits.len());
    digits.insert_str(0, &"0".repeat(missing));
    let prefix = match (spec.conversion, spec.alternate) {
        (b'x', true) if size != 0 => "0x",
        (b'X', true) if size != 0 => "0X",
        (b'o', true) if !digits.starts_with('0') => "0",
        _ if signed => spec.sign(negative),
        _ => "",
    };
    spec.padded(prefix, &digits, spec.zeros && spec.precision.is_none())
}

/// `%f %e %g %a` and their capitals
pub(super) fn float(spec: &Spec, value: f64) -> Vec<u8> {
    let (sign, size) = (spec.sign(value.is_sign_negative()).to_string(), value.abs());
    let capital = spec.conversion.is_ascii_uppercase();
    let cased = |text: String| if capital { text.to_ascii_uppercase() } else { text };
    if !value.is_finite() {
        let name = if value.is_nan() { "nan" } else { "inf" };
        return spec.padded(&sign, &cased(name.into()), false);
    }
    let precision = spec.precision.unwrap_or(6);
    let (prefix, digits) = match spec.conversion.to_ascii_lowercase() {
        b'f' => (sign, fixed(size, precision, spec.alternate)),
        b'e' => (sign, scientific(size, precision, spec.alternate)),
        b'g' => (sign, general(size, precision.max(1), spec.alternate)),
        _ => (sign + "0x", hexadecimal(size, spec.precision, spec.alternate)),
    };
    spec.padded(&cased(prefix), &cased(digits), spec.zeros)
}

fn point(mut digits: String, precision: usize, alternate: bool) -> String {
    if alternate && precision == 0 {
        digits.push('.');
    }
    digits
}

fn fixed(value: f64, precision: usize, alternate: bool) -> String {
    point(format!("{value:.precision$}"), precision, alternate)
}

/// Digits and exponent of the scientific form.
fn parts(value: f64, precision: usize) -> (String, i32) {
    let text = format!("{value:.precision$e}");
    match text.split_once('e') {
        Some((digits, exponent)) => (digits.into(), exponent.parse().unwrap_or(0)),
        None => (text, 0),
    }
}

fn exponent(digits: &str, exponent: i32) -> String {
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.unsigned_abs())
}

fn scientific(value: f64, precision: usize, alternate: bool) -> String {
    let (digits, power) = parts(value, precision);
    exponent(&point(digits, precision, alternate), power)
}

fn general(value: f64, precision: usize, alternate: bool) -> String {
    let (digits, power) = parts(value, precision - 1);
    let stripped = |text: String| match text.contains('.') && !alternate {
        true => text.trim_end_matches('0').trim_end_matches('.').to_string(),
        false => text,
    };
    if power < -4 || power >= precision as i32 {
        return exponent(&stripped(point(digits, precision - 1, alternate)), power);
    }
    let precision = (precision as i32 - 1 - power).max(0) as usize;
    stripped(fixed(value, precision, alternate))
}

/// Without the `0x`. Subnormals have a zero in front, as glibc writes them.
fn hexadecimal(value: f64, precision: Option<usize>, alternate: bool) -> String {
    let bits = value.to_bits();
    let (mut mantissa, power) = match (bits >> 52 & 0x7ff) as i32 {
        0 if bits == 0 => (0, 0),
        0 => (bits, -1022),
        power => (bits & ((1 << 52) - 1) | 1 << 52, power - 1023),
    };
    let kept = precision.unwrap_or(13).min(13);
    let drop = 4 * (13 - kept) as u32;
    if drop > 0 {
        // To the nearest, ties to even.
        let (rest, half) = (mantissa & ((1 << drop) - 1), 1 << (drop - 1));
        mantissa >>= drop;
        mantissa += u64::from(rest > half || rest == half && mantissa & 1 != 0);
        mantissa <<= drop;
    }
    let mut digits = format!("{:013x}", mantissa & ((1 << 52) - 1));
    match precision {
        None => digits.truncate(digits.trim_end_matches('0').len()),
        Some(precision) => {
            digits.truncate(kept);
            digits.push_str(&"0".repeat(precision - kept));
        }
    }
    let dot = if digits.is_empty() && !alternate { "" } else { "." };
    let sign = if power < 0 { '-' } else { '+' };
    format!("{}{dot}{digits}p{sign}{}", mantissa >> 52, power.unsigned_abs())
}
