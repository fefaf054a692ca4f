package perf

// EngineBeside measures a load, and beside it what it is to be compared with: a flood
// with connections that begin in a half full table.
func EngineBeside(load EngineLoad) (EngineResult, error) {
	if load.Work != Flood {
		return Engine(load)
	}
	half := load
	half.Work = New
	half.Duration, load.Duration = load.Duration/2, load.Duration/2
	other, err := Engine(half)
	if err != nil {
		return other, err
	}
	r, err := Engine(load)
	if err != nil {
		return r, err
	}
	r.Compare = append(r.Compare, Compared{other.Scenario, other.PPS, r.PPS / other.PPS})
	return r, nil
}
