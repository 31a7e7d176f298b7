//! Pull pipeline, references and image records
