"""`make demo`: a ten-job matrix from signed webhooks to right-sized containers, all parts real but GitHub."""
