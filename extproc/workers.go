package extproc

// StreamWorkers is how many goroutines a server of processors had better keep for its streams (grpc.NumStreamWorkers): a
// decision takes a deep stack, and a new goroutine grows and copies its own for each request. Streams beyond this number get
// a goroutine each.
const StreamWorkers = 64
