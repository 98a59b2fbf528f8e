//! A shared cache in memory (RFC 9111).
