//! Rules about the workspace itself.

// The attribute tells clippy what cargo knows: everything here is a test.
#[cfg(test)]
mod it {
    mod rules;
}
