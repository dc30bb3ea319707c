//! What users write, turned into validated types.
