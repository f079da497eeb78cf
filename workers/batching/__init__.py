"""The stages of the batch lane: gather questions, send them as a batch, take the answers, wake the jobs that wait."""
