-- The health check of an AuthGateway or a PublicKeys for Argo CD, which sets obj and reads the
-- returned table. Argo CD runs Lua 5.1. See docs/install.md.

local status = obj.status or {}

local function condition(name)
  for _, c in ipairs(status.conditions or {}) do
    if c.type == name then
      return c
    end
  end
  return {}
end

local ready, stalled = condition("Ready"), condition("Stalled")

if ready.status == nil then
  return { status = "Progressing", message = "the operator has not seen this object yet" }
end
if status.observedGeneration ~= obj.metadata.generation or ready.observedGeneration ~= obj.metadata.generation then
  return { status = "Progressing", message = "the operator has not seen this version of the spec yet" }
end
if ready.reason == "Suspended" then
  return { status = "Suspended", message = ready.message }
end
if ready.status == "True" then
  return { status = "Healthy", message = ready.message }
end
-- A person must act, or pods fail, or the database is unavailable. The last two may
-- recover without help.
if stalled.status == "True" or ready.reason == "PodsFailing" or ready.reason == "DatabaseUnavailable" then
  return { status = "Degraded", message = ready.reason .. ": " .. ready.message }
end
return { status = "Progressing", message = ready.reason .. ": " .. ready.message }
