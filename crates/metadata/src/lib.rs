//! Durable records
