//! Distribution client
