package orchestrator

default result["allowed"] := true
