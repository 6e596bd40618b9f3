package config_test

import (
	"encoding/json"
	"testing"

	"github.com/auth-gateway/auth-gateway/internal/config"
)

// During an upgrade a server and an operator of different versions exchange states, so
// these names must not change.
func TestStateKeepsItsNames(t *testing.T) {
	for want, state := range map[string]config.State{
		`{"version":"","ready":false,"keys":{"generation":0,"held":[],"ready":[]},"database":{}}`: {
			Keys: config.KeysState{Held: []string{}, Ready: []string{}},
		},
		`{"version":"v1","ready":true,"reason":"r","keys":{"generation":7,"held":["a","b"],"ready":["a"]},"database":{"maxConnections":97}}`: {
			Version: "v1", Ready: true, Reason: "r",
			Keys:     config.KeysState{Generation: 7, Held: []string{"a", "b"}, Ready: []string{"a"}},
			Database: config.DatabaseState{MaxConnections: 97},
		},
	} {
		if got, err := json.Marshal(state); err != nil || string(got) != want {
			t.Errorf("%v, got\n%s\nwant\n%s", err, got, want)
		}
	}
	if config.StatePath != "/state" {
		t.Errorf("the path is %s, want /state", config.StatePath)
	}
}
