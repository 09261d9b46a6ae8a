package orchestrator

result["allowed"] := true if {
  input.x ==
}
