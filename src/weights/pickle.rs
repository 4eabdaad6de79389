//! Looks through the pickle of a PyTorch file before candle makes objects of it: candle believes every length, copies
//! whatever is remembered, and walks what is nested by recursion. A few bytes could ask it for all memory.

use std::collections::HashMap;
use std::io::Read;
use std::path::Path;

/// Bytes of a pickle; those of released checkpoints have less than a million.
const LONGEST: u64 = 64 << 20;
/// What a pickle may make, copies included, in objects of some 60 bytes.
const MOST_OBJECTS: u64 = 1 << 22;
const DEEPEST: u32 = 100;

/// Looks through every pickle of the archive.
pub(super) fn check_archive(path: &Path) -> Result<(), String> {
    let file = std::fs::File::open(path).map_err(|e| e.to_string())?;
    let mut archive = zip::ZipArchive::new(std::io::BufReader::new(file)).map_err(|e| e.to_string())?;
    for index in 0..archive.len() {
        let entry = archive.by_index(index).map_err(|e| e.to_string())?;
        if !entry.name().is_ok_and(|name| name.ends_with("data.pkl")) {
            continue;
        }
        let mut pickle = Vec::new();
        entry.take(LONGEST + 1).read_to_end(&mut pickle).map_err(|e| e.to_string())?;
        if pickle.len() as u64 > LONGEST {
            return Err(format!("a pickle of more than {LONGEST} bytes"));
        }
        check(&pickle)?;
    }
    Ok(())
}

/// What stands in the place of an object.
#[derive(Clone, Copy)]
struct Size {
    mark: bool,
    objects: u64,
    depth: u32,
}

/// The machine that a pickle is a program for, with sizes instead of objects.
#[derive(Default)]
struct Machine {
    stack: Vec<Size>,
    memo: HashMap<u32, Size>,
    made: u64,
}

/// Whether the objects of this pickle can be made.
fn check(mut pickle: &[u8]) -> Result<(), String> {
    let mut machine = Machine::default();
    loop {
        let [code] = take(&mut pickle)?;
        match code {
            0x80 => drop(take::<1>(&mut pickle)?),
            b'c' => {
                let length = line(&mut pickle)? + line(&mut pickle)?;
                machine.text(length)?;
            }
            b'X' => {
                let length = u32::from_le_bytes(take(&mut pickle)?) as usize;
                pickle = pickle.get(length..).ok_or(SHORT)?;
                machine.text(length)?;
            }
            b'K' => machine.number(take::<1>(&mut pickle)?)?,
            b'M' => machine.number(take::<2>(&mut pickle)?)?,
            b'J' => machine.number(take::<4>(&mut pickle)?)?,
            b'G' => machine.number(take::<8>(&mut pickle)?)?,
            0x8a => {
                let [length] = take(&mut pickle)?;
                if length > 8 {
                    return Err(format!("a whole number of {length} bytes"));
                }
                pickle = pickle.get(usize::from(length)..).ok_or(SHORT)?;
                machine.text(0)?;
            }
            b')' | b']' | b'}' | b'd' | b'N' | 0x88 | 0x89 => machine.text(0)?,
            b'(' => machine.push(Size { mark: true, objects: 1, depth: 1 })?,
            0x85 | b'Q' => machine.join(1)?,
            0x86 | b'R' | b'b' | 0x81 => machine.join(2)?,
            0x87 => machine.join(3)?,
            b't' => {
                let parts = machine.since_mark()?;
                machine.push(whole(&parts))?;
            }
            b'a' => machine.absorb(1)?,
            b's' => machine.absorb(2)?,
            b'e' | b'u' => {
                let parts = machine.since_mark()?;
                machine.stack.extend(&parts);
                machine.absorb(parts.len())?;
            }
            b'q' => machine.keep(take::<1>(&mut pickle)?[0].into())?,
            b'r' => machine.keep(u32::from_le_bytes(take(&mut pickle)?))?,
            b'h' => machine.recall(take::<1>(&mut pickle)?[0].into())?,
            b'j' => machine.recall(u32::from_le_bytes(take(&mut pickle)?))?,
            b'.' => return Ok(()),
            other => return Err(format!("an instruction {other:#04x} that tensors do not need")),
        }
    }
}

const SHORT: &str = "the pickle ends too early";
const EMPTY: &str = "the pickle takes what it has not made";

fn take<const N: usize>(bytes: &mut &[u8]) -> Result<[u8; N], String> {
    let (head, rest) = bytes.split_first_chunk().ok_or(SHORT)?;
    *bytes = rest;
    Ok(*head)
}

/// The length of a line, which is passed over.
fn line(bytes: &mut &[u8]) -> Result<usize, String> {
    let length = bytes.iter().position(|byte| *byte == b'\n').ok_or(SHORT)?;
    *bytes = &bytes[length + 1..];
    Ok(length)
}

/// An object that holds these.
fn whole(parts: &[Size]) -> Size {
    let objects = parts.iter().fold(1u64, |sum, part| sum.saturating_add(part.objects));
    let depth = parts.iter().map(|part| part.depth).max().unwrap_or(0) + 1;
    Size { mark: false, objects, depth }
}

impl Machine {
    fn spend(&mut self, objects: u64) -> Result<(), String> {
        self.made = self.made.saturating_add(objects);
        if self.made > MOST_OBJECTS {
            return Err(format!("the pickle makes more than {MOST_OBJECTS} objects"));
        }
        Ok(())
    }

    fn push(&mut self, size: Size) -> Result<(), String> {
        if size.depth > DEEPEST {
            return Err(format!("objects are nested more than {DEEPEST} times"));
        }
        self.stack.push(size);
        self.spend(1)
    }

    /// An object without parts; long texts count as several.
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
        self.push(whole(&parts))
    }

    /// The object below the last `count` takes them in.
    fn absorb(&mut self, count: usize) -> Result<(), String> {
        let parts = self.top(count)?;
        let into = self.stack.pop().ok_or(EMPTY)?;
        let grown = whole(&parts);
        let depth = into.depth.max(grown.depth);
        self.push(Size { mark: false, objects: into.objects.saturating_add(grown.objects), depth })
    }

    fn since_mark(&mut self) -> Result<Vec<Size>, String> {
        let mark = self.stack.iter().rposition(|size| size.mark).ok_or(EMPTY)?;
        let parts = self.stack.split_off(mark + 1);
        self.stack.pop();
        Ok(parts)
    }

    /// candle keeps a copy, and makes another one whenever it is asked for.
    fn keep(&mut self, id: u32) -> Result<(), String> {
        let size = *self.stack.last().ok_or(EMPTY)?;
        self.memo.insert(id, size);
        self.spend(size.objects)
    }

    fn recall(&mut self, id: u32) -> Result<(), String> {
        let size = *self.memo.get(&id).ok_or("the pickle remembers what it has not seen")?;
        self.spend(size.objects)?;
        self.push(size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_asks_for_too_much_is_refused() {
        let doubling = [b"]q\0".to_vec(), b"h\0h\0\x86q\0".repeat(40), b".".to_vec()].concat();
        let nested = [b")".to_vec(), vec![0x85; 60_000], b".".to_vec()].concat();
        for (pickle, said) in [
            (&b"X\xff\xff\xff\xffabc"[..], "ends too early"),
            (&doubling, "objects"),
            (&nested, "nested"),
            (b"\x8a\x09123456789.", "whole number"),
            (b"R.", "has not made"),
            (b"t.", "has not made"),
            (b"h\0.", "has not seen"),
            (b"\x80\x02i", "0x69"),
            (b"", "ends too early"),
        ] {
            let error = check(pickle).unwrap_err();
            assert!(error.contains(said), "{error}");
        }
        check(b"\x80\x02}q\0(X\x01\0\0\0aK\x01X\x01\0\0\0b)u.").unwrap();
    }
}
