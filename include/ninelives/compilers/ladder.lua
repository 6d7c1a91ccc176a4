-- The rungs between a service's model and its default: a smaller model, then an answer that was kept.
--
-- Runs inside the gateway's workers, only on routes that declare a rung. What stays an error here is turned into the
-- default by the filter before. Kept answers are a worker's own: no worker ever waits for another one.

local KEY = "ninelives.ladder"
local DEGRADED, SITE, VERSION = "x-ninelives-degraded", "x-ninelives-site", "x-ninelives-model-version"
local LARGEST = 65536 -- bytes of a request or an answer that is kept
local MOST = 1024 -- requests of one service that are remembered, twice over
local kept = {}

-- Answers of another generation or version are gone at the first look: a promotion, a rollback, a move and a closing
-- each begin a new generation.
local function shelf_of(service, generation)
  local shelf = kept[service]
  if shelf == nil or shelf.generation ~= generation then
    shelf = {generation = generation, version = nil, new = {}, old = {}, count = 0}
    kept[service] = shelf
  end
  return shelf
end

local function keep(shelf, request, version, site, body)
  if shelf.version ~= version then
    shelf.version, shelf.new, shelf.old, shelf.count = version, {}, {}, 0
  end
  if shelf.new[request] == nil then
    if shelf.count >= MOST then
      shelf.old, shelf.new, shelf.count = shelf.new, {}, 0
    end
    shelf.count = shelf.count + 1
  end
  shelf.new[request] = {body = body, at = os.time(), site = site}
end

local function answer(handle, rung, body, version, site, age)
  local length = handle:body(true):setBytes(body)
  local headers = handle:headers()
  headers:replace(":status", "200")
  headers:replace("content-type", "application/json")
  headers:replace("content-length", tostring(length))
  headers:replace(DEGRADED, rung)
  headers:remove("retry-after")
  headers:remove(VERSION)
  headers:remove(SITE)
  if version then headers:replace(VERSION, version) end
  if site then headers:replace(SITE, site) end
  if age then headers:replace("age", tostring(age)) end
end

function envoy_on_request(handle)
  local length = tonumber(handle:headers():get("content-length") or "")
  if length == nil or length == 0 or length > LARGEST then return end
  local body = handle:body()
  if body == nil then return end
  handle:streamInfo():dynamicMetadata():set(KEY, "request", body:getBytes(0, body:length()))
end

function envoy_on_response(handle)
  local saved = handle:streamInfo():dynamicMetadata():get(KEY)
  local request = saved and saved["request"]
  if request == nil then return end
  -- Read now: nothing of the filter's context may be touched after a call that waits.
  local context = handle:filterContext()
  local service, generation, stable = context:get("service"), context:get("generation"), context:get("stable")
  local max_age = tonumber(context:get("max_age"))
  local cluster, path, timeout = context:get("cluster"), context:get("path"), tonumber(context:get("timeout_ms"))
  local status = handle:headers():get(":status")

  if status == "200" then
    local version, site = handle:headers():get(VERSION), handle:headers():get(SITE)
    if max_age == 0 or version == nil or handle:headers():get(DEGRADED) then return end
    if stable ~= "" and version ~= stable then return end -- of a version that may yet be rolled back
    local body = handle:body()
    if body == nil or body:length() > LARGEST then return end
    -- Taken after the whole body is here, so that a change meanwhile is seen.
    keep(shelf_of(service, generation), request, version, site, body:getBytes(0, body:length()))
    return
  end
  if tonumber(status) < 500 then return end
  handle:body(true) -- the whole error first: it cannot be replaced once a part of it has passed

  if cluster ~= "" then
    local call = {[":method"] = "POST", [":path"] = path, [":authority"] = "ladder", ["content-type"] = "application/json"}
    local headers, body = handle:httpCall(cluster, call, request, timeout)
    if headers[":status"] == "200" and body and #body > 0 then
      answer(handle, "smaller", body, headers[VERSION], headers[SITE])
      return
    end
  end
  if max_age > 0 then
    local shelf = shelf_of(service, generation)
    local one = shelf.new[request] or shelf.old[request]
    local age = one and os.time() - one.at
    if one and age <= max_age and (stable == "" or shelf.version == stable) then
      answer(handle, "cached", one.body, shelf.version, one.site, age)
    end
  end
end
