"""Many runs -> a claim: statistics over seeds, and figures made from tables alone."""
