package controllers

// AskAPod is how the operator asks a pod.
var AskAPod = ask(askTransport())
