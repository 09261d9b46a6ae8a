package orchestrator

default result["allowed"] := false
