"""The client kit: pay for inference, keep the papers, verify them against the chain; needs only `contracts`."""
