//! Check of the pickle in a PyTorch file before candle makes objects of it: candle trusts every length, copies every
//! memoized object, and visits nested objects by recursion. A few bytes could make it allocate all memory.

use std::collections::HashMap;
use std::io::Read;
use std::path::Path;

/// Largest pickle in bytes; those of released checkpoints have less than a million.
const MAX_BYTES: u64 = 64 << 20;
/// Largest number of objects, copies included, of some 60 bytes each.
const MAX_OBJECTS: u64 = 1 << 22;
const MAX_DEPTH: u32 = 100;

/// Checks every pickle of the archive.
pub(super) fn check_archive(path: &Path) -> Result<(), String> {
    let file = std::fs::File::open(path).map_err(|e| e.to_string())?;
    let mut archive = zip::ZipArchive::new(std::io::BufReader::new(file)).map_err(|e| e.to_string())?;
    for index in 0..archive.len() {
        let entry = archive.by_index(index).map_err(|e| e.to_string())?;
        if !entry.name().is_ok_and(|name| name.ends_with("data.pkl")) {
            continue;
        }
        let mut pickle = Vec::new();
        entry.take(MAX_BYTES + 1).read_to_end(&mut pickle).map_err(|e| e.to_string())?;
        if pickle.len() as u64 > MAX_BYTES {
            return Err(format!("a pickle of more than {MAX_BYTES} bytes"));
        }
        check(&pickle)?;
    }
    Ok(())
}

/// Size of an object, in the place of the object.
#[derive(Clone, Copy)]
struct Size {
    mark: bool,
    objects: u64,
    depth: u32,
}

/// Interpreter of the pickle's stack interpreter, with sizes instead of objects.
#[derive(Default)]
struct Interpreter {
    stack: Vec<Size>,
    memo: HashMap<u32, Size>,
    made: u64,
}

/// Checks that the objects of a pickle fit the limits.
fn check(mut pickle: &[u8]) -> Result<(), String> {
    let mut interpreter = Interpreter::default();
    loop {
        let [code] = take(&mut pickle)?;
        match code {
            0x80 => drop(take::<1>(&mut pickle)?),
            b'c' => {
                let length = line(&mut pickle)? + line(&mut pickle)?;
                interpreter.text(length)?;
            }
            b'X' => {
                let length = u32::from_le_bytes(take(&mut pickle)?) as usize;
                pickle = pickle.get(length..).ok_or(SHORT)?;
                interpreter.text(length)?;
            }
            b'K' => interpreter.number(take::<1>(&mut pickle)?)?,
            b'M' => interpreter.number(take::<2>(&mut pickle)?)?,
            b'J' => interpreter.number(take::<4>(&mut pickle)?)?,
            b'G' => interpreter.number(take::<8>(&mut pickle)?)?,
            0x8a => {
                let [length] = take(&mut pickle)?;
                if length > 8 {
                    return Err(format!("an integer of {length} bytes"));
                }
                pickle = pickle.get(usize::from(length)..).ok_or(SHORT)?;
                interpreter.text(0)?;
            }
            b')' | b']' | b'}' | b'd' | b'N' | 0x88 | 0x89 => interpreter.text(0)?,
            b'(' => interpreter.push(Size { mark: true, objects: 1, depth: 1 })?,
            0x85 | b'Q' => interpreter.join(1)?,
            0x86 | b'R' | b'b' | 0x81 => interpreter.join(2)?,
            0x87 => interpreter.join(3)?,
            b't' => {
                let parts = interpreter.since_mark()?;
                interpreter.push(object_of(&parts))?;
            }
            b'a' => interpreter.add_to_object(1)?,
            b's' => interpreter.add_to_object(2)?,
            b'e' | b'u' => {
                let parts = interpreter.since_mark()?;
                interpreter.stack.extend(&parts);
                interpreter.add_to_object(parts.len())?;
            }
            b'q' => interpreter.memoize(take::<1>(&mut pickle)?[0].into())?,
            b'r' => interpreter.memoize(u32::from_le_bytes(take(&mut pickle)?))?,
            b'h' => interpreter.fetch(take::<1>(&mut pickle)?[0].into())?,
            b'j' => interpreter.fetch(u32::from_le_bytes(take(&mut pickle)?))?,
            b'.' => return Ok(()),
            other => return Err(format!("instruction {other:#04x}, which tensors do not need")),
        }
    }
}

const SHORT: &str = "the pickle ends too early";
const EMPTY: &str = "the pickle uses an object that it has not made";

fn take<const N: usize>(bytes: &mut &[u8]) -> Result<[u8; N], String> {
    let (head, rest) = bytes.split_first_chunk().ok_or(SHORT)?;
    *bytes = rest;
    Ok(*head)
}

/// Skips a line and returns its length.
fn line(bytes: &mut &[u8]) -> Result<usize, String> {
    let length = bytes.iter().position(|byte| *byte == b'\n').ok_or(SHORT)?;
    *bytes = &bytes[length + 1..];
    Ok(length)
}

/// Returns the size of an object that holds `parts`.
fn object_of(parts: &[Size]) -> Size {
    let objects = parts.iter().fold(1u64, |sum, part| sum.saturating_add(part.objects));
    let depth = parts.iter().map(|part| part.depth).max().unwrap_or(0) + 1;
    Size { mark: false, objects, depth }
}

impl Interpreter {
    fn spend(&mut self, objects: u64) -> Result<(), String> {
        self.made = self.made.saturating_add(objects);
        if self.made > MAX_OBJECTS {
            return Err(format!("the pickle makes more than {MAX_OBJECTS} objects"));
        }
        Ok(())
    }

    fn push(&mut self, size: Size) -> Result<(), String> {
        if size.depth > MAX_DEPTH {
            return Err(format!("objects are nested more than {MAX_DEPTH} times"));
        }
        self.stack.push(size);
        self.spend(1)
    }

    /// Pushes an object without parts; long texts count as several.
    fn text(&mut self, length: usize) -> Result<(), String> {
        let objects = 1 + length as u64 / 64;
        self.spend(objects)?;
        self.push(Size { mark: false, objects, depth: 1 })
    }

    fn number<const N: usize>(&mut self, _: [u8; N]) -> Result<(), String> {
        self.text(0)
    }

    fn top(&mut self, count: usize) -> Result<Vec<Size>, String> {
        let from = self.stack.len().checked_sub(count).ok_or(EMPTY)?;
        Ok(self.stack.split_off(from))
    }

    fn join(&mut self, count: usize) -> Result<(), String> {
        let parts = self.top(count)?;
        self.push(object_of(&parts))
    }

    /// Adds the last `count` objects to the object below them.
    fn add_to_object(&mut self, count: usize) -> Result<(), String> {
        let parts = self.top(count)?;
        let into = self.stack.pop().ok_or(EMPTY)?;
        let grown = object_of(&parts);
        let depth = into.depth.max(grown.depth);
        self.push(Size { mark: false, objects: into.objects.saturating_add(grown.objects), depth })
    }

    fn since_mark(&mut self) -> Result<Vec<Size>, String> {
        let mark = self.stack.iter().rposition(|size| size.mark).ok_or(EMPTY)?;
        let parts = self.stack.split_off(mark + 1);
        self.stack.pop();
        Ok(parts)
    }

    /// Memoizes the last object. candle stores a copy, and makes another one at every use.
    fn memoize(&mut self, id: u32) -> Result<(), String> {
        let size = *self.stack.last().ok_or(EMPTY)?;
        self.memo.insert(id, size);
        self.spend(size.objects)
    }

    fn fetch(&mut self, id: u32) -> Result<(), String> {
        let size = *self.memo.get(&id).ok_or("the pickle reads a memo that it has not stored")?;
        self.spend(size.objects)?;
        self.push(size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rejects_hostile_pickles() {
        let doubling = [b"]q\0".to_vec(), b"h\0h\0\x86q\0".repeat(40), b".".to_vec()].concat();
        let nested = [b")".to_vec(), vec![0x85; 60_000], b".".to_vec()].concat();
        for (pickle, expected) in [
            (&b"X\xff\xff\xff\xffabc"[..], "ends too early"),
            (&doubling, "objects"),
            (&nested, "nested"),
            (b"\x8a\x09123456789.", "integer of 9 bytes"),
            (b"R.", "has not made"),
            (b"t.", "has not made"),
            (b"h\0.", "has not stored"),
            (b"\x80\x02i", "0x69"),
            (b"", "ends too early"),
        ] {
            let error = check(pickle).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
        check(b"\x80\x02}q\0(X\x01\0\0\0aK\x01X\x01\0\0\0b)u.").unwrap();
    }
}
