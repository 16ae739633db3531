//! Fat binaries as nvcc writes them: finds the PTX text that fits a device best.
//!
//! A container has a 16-byte header (magic, version, header size, bytes that follow) and entries, each with a header of 64 bytes or more
//! (kind, header size, padded and compressed sizes, SM number, flags, uncompressed size) and a payload. Several containers may follow
//! each other. All numbers are little-endian.

use std::io::Read;

use super::call::{HostPtr, Outcome, fail, unsupported};
use super::result::CUresult;
use crate::device::Device;

/// First word of a container.
pub(super) const CONTAINER: u32 = 0xba55_ed50;
/// First word of the structure that points at a container: {magic, version, container, file name}.
pub(super) const WRAPPER: u32 = 0x4662_43b1;
/// More than this is taken for a damaged size.
const MOST_BYTES: u64 = 1 << 31;

const KIND_PTX: u16 = 1;
const KIND_BUNDLE: u16 = 0x100;
const FLAG_LZ4: u64 = 0x2000;
const FLAG_ZSTD: u64 = 0x8000;
const FLAG_ARCHITECTURE: u64 = 0x10_0000;
const FLAG_FAMILY: u64 = 0x20_0000;

/// Header of an entry.
#[derive(Debug, Clone, Copy)]
struct Entry {
    kind: u16,
    header: usize,
    padded: usize,
    compressed: usize,
    sm: u32,
    flags: u64,
    uncompressed: usize,
}

fn damaged<T>(what: impl std::fmt::Display) -> Outcome<T> {
    fail(
        CUresult::INVALID_IMAGE,
        format!("the fat binary is damaged: {what}"),
    )
}

fn field<const N: usize>(bytes: &[u8], at: usize) -> Outcome<[u8; N]> {
    match bytes.get(at..at + N).and_then(|b| b.try_into().ok()) {
        Some(b) => Ok(b),
        None => damaged(format_args!("it ends inside a header, at byte {at}")),
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Outcome<u16> {
    field(bytes, at).map(u16::from_le_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Outcome<u32> {
    field(bytes, at).map(u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> Outcome<u64> {
    field(bytes, at).map(u64::from_le_bytes)
}

/// Reads a container that lies in the program's memory; the header says how long it is.
pub(super) fn read(container: HostPtr) -> Outcome<Vec<u8>> {
    let mut header = [0; 16];
    container.read(&mut header)?;
    let size = u64_at(&header, 8)?;
    if size > MOST_BYTES {
        return damaged(format_args!("its header tells of {size} bytes"));
    }
    let mut bytes = vec![0; 16 + size as usize];
    container.read(&mut bytes)?;
    Ok(bytes)
}

/// The length of a container and all that follow it, from the bytes of a file: everything up to the first that is none.
fn entries(mut bytes: &[u8]) -> Outcome<Vec<(Entry, &[u8])>> {
    let mut entries = Vec::new();
    while bytes.len() >= 16 && u32_at(bytes, 0)? == CONTAINER {
        let header = usize::from(u16_at(bytes, 6)?);
        if header < 16 {
            return damaged(format_args!("its header says that it has {header} bytes"));
        }
        let size = u64_at(bytes, 8)?;
        let end = usize::try_from(size)
            .ok()
            .and_then(|s| s.checked_add(header));
        let Some(content) = end.and_then(|end| bytes.get(header..end)) else {
            return damaged(format_args!(
                "{size} bytes should follow the header, {} do",
                bytes.len() - 16
            ));
        };
        let mut at = 0;
        while at < content.len() {
            let rest = &content[at..];
            let entry = Entry {
                kind: u16_at(rest, 0)?,
                header: u32_at(rest, 4)? as usize,
                padded: usize::try_from(u64_at(rest, 8)?).unwrap_or(usize::MAX),
                compressed: u32_at(rest, 0x10)? as usize,
                sm: u32_at(rest, 0x1c)?,
                flags: u64_at(rest, 0x28)?,
                uncompressed: usize::try_from(u64_at(rest, 0x38)?).unwrap_or(usize::MAX),
            };
            let end = entry
                .header
                .checked_add(entry.padded)
                .filter(|_| entry.header >= 64);
            let Some(payload) = end.and_then(|end| rest.get(entry.header..end)) else {
                return damaged(format_args!(
                    "the entry at byte {at} is longer than its container"
                ));
            };
            entries.push((entry, payload));
            at += entry.header + entry.padded;
        }
        bytes = &bytes[header + content.len()..];
    }
    Ok(entries)
}

/// How well PTX for an architecture fits a device; `None` if it does not run there.
fn fitness(entry: &Entry, device: &Device) -> Option<(u32, bool)> {
    let sm = device.sm();
    let specific = entry.flags & FLAG_ARCHITECTURE != 0;
    let fits = if specific {
        entry.sm == sm
    } else if entry.flags & FLAG_FAMILY != 0 {
        entry.sm / 10 == sm / 10 && entry.sm <= sm
    } else {
        entry.sm <= sm
    };
    fits.then_some((entry.sm, specific))
}

fn architecture(entry: &Entry) -> String {
    let suffix = match entry.flags & (FLAG_ARCHITECTURE | FLAG_FAMILY) {
        0 => "",
        FLAG_FAMILY => "f",
        _ => "a",
    };
    let what = if entry.kind == KIND_PTX {
        "compute"
    } else {
        "sm"
    };
    format!("{what}_{}{suffix}", entry.sm)
}

/// The PTX text in the bytes of a module: the text itself, or the best one in a fat binary.
///
/// # Errors
/// A sentence, for bytes that are neither or that do not fit the device.
pub fn module_text(bytes: &[u8], device: &Device) -> Result<String, String> {
    let fat = bytes.get(..4) == Some(&CONTAINER.to_le_bytes());
    let text = match fat {
        true => ptx_for(bytes, device).map_err(|failure| failure.message)?,
        false => bytes.to_vec(),
    };
    String::from_utf8(text).map_err(|e| format!("neither a fat binary nor PTX text: {e}"))
}

/// The PTX text in a fat binary that fits the device best: its own architecture-specific one, else the newest that is not newer than
/// the device.
///
/// # Errors
/// `CUDA_ERROR_NO_BINARY_FOR_GPU` where there is none, machine code included: only PTX is executed here.
pub(super) fn ptx_for(bytes: &[u8], device: &Device) -> Outcome<Vec<u8>> {
    let entries = entries(bytes)?;
    if entries.iter().any(|(e, _)| e.kind == KIND_BUNDLE) {
        return unsupported("fat binaries made with -Xfatbin -concat: leave the option out");
    }
    let texts = entries.iter().filter(|(e, _)| e.kind == KIND_PTX);
    let best = texts
        .filter_map(|e| Some((fitness(&e.0, device)?, e)))
        .max_by_key(|(f, _)| *f);
    let Some((_, (entry, payload))) = best else {
        let there: Vec<_> = entries.iter().map(|(e, _)| architecture(e)).collect();
        let message = format!(
            "no PTX for sm_{} in the fat binary, which holds: {} (machine code cannot be emulated: compile with \
             -gencode arch=compute_XX,code=[sm_XX,compute_XX])",
            device.sm(),
            there.join(", ")
        );
        return fail(CUresult::NO_BINARY_FOR_GPU, message);
    };
    decompress(entry, payload)
}

fn decompress(entry: &Entry, payload: &[u8]) -> Outcome<Vec<u8>> {
    if entry.flags & (FLAG_ZSTD | FLAG_LZ4) == 0 {
        return Ok(payload.to_vec());
    }
    if entry.uncompressed as u64 > MOST_BYTES {
        return damaged(format_args!(
            "an entry tells of {} bytes",
            entry.uncompressed
        ));
    }
    let Some(compressed) = payload.get(..entry.compressed) else {
        return damaged("an entry's compressed size is more than its size");
    };
    let text = if entry.flags & FLAG_ZSTD != 0 {
        let mut text = Vec::with_capacity(entry.uncompressed);
        ruzstd::decoding::StreamingDecoder::new(compressed)
            .map_err(|e| e.to_string())
            .and_then(|d| {
                let mut limited = d.take(entry.uncompressed as u64 + 1);
                limited.read_to_end(&mut text).map_err(|e| e.to_string())
            })
            .map(|_| text)
    } else {
        lz4_flex::block::decompress(compressed, entry.uncompressed).map_err(|e| e.to_string())
    };
    match text {
        Ok(text) if text.len() == entry.uncompressed => Ok(text),
        Ok(text) => damaged(format_args!(
            "{} bytes of {} decompress",
            text.len(),
            entry.uncompressed
        )),
        Err(e) => damaged(format_args!(
            "{} does not decompress: {e}",
            architecture(entry)
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ZSTD: &[u8] = include_bytes!("../../tests/data/scale_zstd.fatbin");
    const LZ4: &[u8] = include_bytes!("../../tests/data/scale_lz4.fatbin");
    const PLAIN: &[u8] = include_bytes!("../../tests/data/scale_plain.fatbin");
    const MACHINE_CODE: &[u8] = include_bytes!("../../tests/data/scale_machine_code.fatbin");
    const SPECIFIC: &[u8] = include_bytes!("../../tests/data/scale_90a.fatbin");

    fn text(bytes: &[u8], device: &str) -> Outcome<String> {
        let text = ptx_for(bytes, Device::from_key(device).unwrap())?;
        let text = String::from_utf8(text).unwrap();
        Ok(text.trim_end_matches('\0').to_owned())
    }

    #[test]
    fn every_compression_holds_the_same_text() {
        let plain = text(PLAIN, "a100").unwrap();
        assert!(plain.contains(".target sm_80") && plain.contains(".visible .entry scale("));
        assert_eq!(text(LZ4, "a100").unwrap(), plain);
        assert_eq!(text(ZSTD, "a100").unwrap(), plain);
    }

    #[test]
    fn the_newest_text_that_fits_is_chosen() {
        for (device, target) in [("a100", 80), ("rtx3090", 80), ("rtx4090", 89), ("h100", 89)] {
            let text = text(ZSTD, device).unwrap();
            assert!(text.contains(&format!(".target sm_{target}\n")), "{device}");
        }
        assert!(text(SPECIFIC, "h100").unwrap().contains(".target sm_90a"));
        for (bytes, device, there) in [
            (SPECIFIC, "a100", "compute_90a"),
            (SPECIFIC, "b200", "compute_90a"),
            (MACHINE_CODE, "a100", "sm_80"),
        ] {
            let failure = text(bytes, device).unwrap_err();
            assert_eq!(failure.code, CUresult::NO_BINARY_FOR_GPU);
            assert!(failure.message.contains(there), "{}", failure.message);
        }
    }

    #[test]
    fn several_containers_are_one_image() {
        let both = [SPECIFIC, LZ4].concat();
        assert!(text(&both, "a100").unwrap().contains(".target sm_80"));
        assert!(text(&both, "h100").unwrap().contains(".target sm_90a"));
    }

    #[test]
    fn a_container_of_no_bytes_is_damaged() {
        let mut empty = PLAIN.to_vec();
        empty[6..16].fill(0);
        let failure = text(&empty, "a100").unwrap_err();
        assert_eq!(failure.code, CUresult::INVALID_IMAGE);
        assert!(failure.message.contains("0 bytes"), "{}", failure.message);
    }

    #[test]
    fn damage_is_an_error_and_no_crash() {
        for good in [ZSTD, LZ4, PLAIN] {
            for length in 16..good.len() {
                assert!(text(&good[..length], "rtx4090").is_err(), "cut to {length}");
            }
            for at in 0..good.len().min(700) {
                for bit in [0, 3, 7] {
                    let mut bad = good.to_vec();
                    bad[at] ^= 1 << bit;
                    // Any answer but a panic: some bits do not matter.
                    let _ = ptx_for(&bad, Device::from_key("rtx4090").unwrap());
                }
            }
        }
    }
}
