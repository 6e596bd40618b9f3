-- The health of an AuthGateway for Argo CD, which sets obj and uses what is
-- returned. It is written for Lua 5.1, as Argo CD runs it. See docs/install.md.

local status = obj.status or {}

local function condition(kind)
  for _, c in ipairs(status.conditions or {}) do
    if c.type == kind then
      return c
    end
  end
  return {}
end

local ready, stalled = condition("Ready"), condition("Stalled")

if ready.status == nil then
  return { status = "Progressing", message = "the operator has not seen this AuthGateway yet" }
end
if status.observedGeneration ~= obj.metadata.generation or ready.observedGeneration ~= obj.metadata.generation then
  return { status = "Progressing", message = "the operator has not seen the present spec yet" }
end
if ready.reason == "Suspended" then
  return { status = "Suspended", message = ready.message }
end
if ready.status == "True" then
  return { status = "Healthy", message = ready.message }
end
-- A person has to act, or pods fail, or they have no database. The last two may
-- mend by themselves.
if stalled.status == "True" or ready.reason == "PodsFailing" or ready.reason == "DatabaseUnavailable" then
  return { status = "Degraded", message = ready.reason .. ": " .. ready.message }
end
return { status = "Progressing", message = ready.reason .. ": " .. ready.message }
