//! The file that is written: whole, or not at all.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use millet::Element;
use safetensors::Dtype;
use safetensors::tensor::TensorView;

use crate::Result;

/// A tensor to write, little-endian.
pub(crate) struct Tensor {
    name: String,
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

impl Tensor {
    /// As f32, whatever the storage was.
    pub(crate) fn real<T: Element<Acc = f32>>(
        name: impl Into<String>,
        shape: &[usize],
        data: &[T],
    ) -> Self {
        let bytes = data.iter().flat_map(|x| x.widen().to_le_bytes()).collect();
        Self {
            name: name.into(),
            dtype: Dtype::F32,
            shape: shape.to_vec(),
            bytes,
        }
    }

    /// As i32.
    pub(crate) fn integer(name: &'static str, shape: &[usize], data: &[i32]) -> Self {
        let bytes = data.iter().flat_map(|x| x.to_le_bytes()).collect();
        Self {
            name: name.into(),
            dtype: Dtype::I32,
            shape: shape.to_vec(),
            bytes,
        }
    }
}

/// A file that gets its name when it is complete. Made before the layer runs, so that a path that cannot be written is
/// refused at once.
pub(crate) struct OutputFile {
    path: PathBuf,
    partial: PathBuf,
}

impl OutputFile {
    /// `input` is the file that was read: it is not overwritten.
    pub(crate) fn create(path: &Path, input: &Path) -> Result<Self> {
        let refuse = |why: &str| Err(format!("cannot write {}: {why}", path.display()));
        if let Ok(existing) = fs::canonicalize(path) {
            if !existing.is_file() {
                return refuse("it exists and is not a regular file");
            }
            if fs::canonicalize(input).is_ok_and(|input| input == existing) {
                return refuse("it is the input file");
            }
        }
        let Some(name) = path.file_name() else {
            return refuse("it names no file");
        };
        let mut hidden = OsString::from(".");
        hidden.push(name);
        hidden.push(format!(".{}.partial", std::process::id()));
        let partial = path.with_file_name(hidden);
        match fs::File::create_new(&partial) {
            Ok(_) => Ok(Self {
                path: path.to_owned(),
                partial,
            }),
            Err(error) => refuse(&error.to_string()),
        }
    }

    /// Writes the tensors, then gives the file its name.
    pub(crate) fn write(self, tensors: Vec<Tensor>) -> Result<()> {
        let cannot = |error: &dyn std::fmt::Display| {
            format!("cannot write {}: {error}", self.path.display())
        };
        let views: Result<Vec<_>, _> = tensors
            .iter()
            .map(|tensor| {
                let view = TensorView::new(tensor.dtype, tensor.shape.clone(), &tensor.bytes)?;
                Ok((&tensor.name, view))
            })
            .collect();
        let bytes = views
            .and_then(|views| safetensors::serialize(views, None))
            .map_err(|error| cannot(&error))?;
        fs::write(&self.partial, bytes)
            .and_then(|()| fs::rename(&self.partial, &self.path))
            .map_err(|error| cannot(&error))
    }
}

impl Drop for OutputFile {
    fn drop(&mut self) {
        // After the rename there is nothing left to remove.
        let _ = fs::remove_file(&self.partial);
    }
}
