//! Numbers as text, where no allocation is wanted.

/// Appends `number` in decimal.
pub fn write(number: impl itoa::Integer, out: &mut Vec<u8>) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}
