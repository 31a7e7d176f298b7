//! Identifiers of the field: parsing and validation, no I/O
