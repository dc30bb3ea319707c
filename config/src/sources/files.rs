//! Files beside what the API server has: what `kubectl apply -f` would make of them.

use super::{Document, Sources};
use crate::check::{Finding, contents};
use crate::manifests::File;

impl Sources {
    /// Takes what stands in files: an object takes the place of the one of its kind and name, a document that of the
    /// ConfigMap's.
    ///
    /// # Errors
    /// What cannot be read, by file and line; nothing is taken then.
    pub fn apply_files(&mut self, files: &[File]) -> Result<(), Vec<Finding>> {
        for content in contents(files)? {
            content.objects.into_iter().for_each(|object| self.apply(object));
            if let Some(document) = content.documents.into_iter().next_back() {
                self.set_document(Document::Text(document.text));
            }
        }
        Ok(())
    }
}
