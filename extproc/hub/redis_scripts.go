package hub

import "github.com/redis/go-redis/v9"

// redisPrefix begins every key and channel, for access lists (~sallyport:*, &sallyport:*). The braces put all keys into
// one slot of a cluster: Expire and the caps touch several owners at once.
const redisPrefix = "sallyport:{store}:"

// Of an owner: principal (a string: whose session it is, "" for a principal; the owner is known while it is there),
// upstreams (a hash by app), facts (a hash), marks (a set). Of a principal: sessions (a sorted set by last use).
// Of all: used (the owners, a sorted set by last use), lost (a list of upstream sessions for the next Expire).
const scriptPrelude = `
local used, lost = KEYS[1], KEYS[2]
local now, timeout, keep, max = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3], tonumber(ARGV[4])
local owner, is_principal = ARGV[5], ARGV[6] == '1'
local call = redis.call

local function key(kind, name) return '` + redisPrefix + `' .. kind .. ':' .. name end

-- long_ago is the range of scores of what was idle for too long.
local long_ago = string.format('(%.0f', now - timeout)

-- finish forgets an owner and returns its upstream sessions.
local function finish(o)
	local open = call('HVALS', key('upstreams', o))
	local principal = call('GET', key('principal', o))
	if principal and principal ~= '' then call('ZREM', key('sessions', principal), o) end
	call('DEL', key('principal', o), key('upstreams', o), key('facts', o), key('marks', o))
	call('ZREM', used, o)
	return open
end

-- lose finishes an owner whose upstream sessions the caller does not ask for.
local function lose(o)
	for _, s in ipairs(finish(o)) do call('RPUSH', lost, s) end
	call('PEXPIRE', lost, keep)
end

local function idle(o)
	local last = call('ZSCORE', used, o)
	return last and now - tonumber(last) > timeout
end

-- mark notes that owner is used now. Should it be one too many, the one used longest ago makes room.
local function mark(principal)
	call('SET', key('principal', owner), principal, 'PX', keep)
	if principal ~= '' then
		call('ZADD', key('sessions', principal), ARGV[1], owner)
		call('PEXPIRE', key('sessions', principal), keep)
	end
	for _, kind in ipairs({'upstreams', 'facts', 'marks'}) do call('PEXPIRE', key(kind, owner), keep) end
	call('ZADD', used, ARGV[1], owner)
	call('PEXPIRE', used, keep)
	if call('ZCARD', used) > max then lose(call('ZRANGE', used, 0, 0)[1]) end
end

-- use marks owner as used, unless it has ended.
local function use()
	if idle(owner) then lose(owner) end
	local principal = call('GET', key('principal', owner))
	if not principal then
		if not is_principal then return false end
		principal = ''
	end
	mark(principal)
	return true
end

-- put sets what is in a hash or set of owner, which must not outlive it.
local function put(command, kind, ...)
	call(command, key(kind, owner), ...)
	call('PEXPIRE', key(kind, owner), keep)
end

local function id(session) return cjson.decode(session).id or '' end
`

func ownerScript(body string) *redis.Script { return redis.NewScript(scriptPrelude + body) }

var (
	scriptBegin = ownerScript(`
local principal, cap = ARGV[7], tonumber(ARGV[8])
local sessions = key('sessions', principal)
call('ZREMRANGEBYSCORE', sessions, '-inf', long_ago)
if call('ZCARD', sessions) >= cap then return 0 end
mark(principal)
return 1
`)
	scriptTouch = ownerScript(`return use() and 1 or 0`)

	scriptEnd = ownerScript(`return finish(owner)`)

	// It first returns whether there are more.
	scriptExpire = ownerScript(`
local batch = tonumber(ARGV[7])
local reply = {'0'}
local function add(sessions) for _, s in ipairs(sessions) do reply[#reply + 1] = s end end

add(call('LRANGE', lost, 0, batch - 1))
call('LTRIM', lost, batch, -1)
local gone = call('ZRANGEBYSCORE', used, '-inf', long_ago, 'LIMIT', 0, batch)
for _, o in ipairs(gone) do add(finish(o)) end
if #gone == batch or call('LLEN', lost) > 0 then reply[1] = '1' end
return reply
`)
	scriptUpstream = ownerScript(`return use() and call('HGET', key('upstreams', owner), ARGV[7])`)

	scriptUpstreams = ownerScript(`return idle(owner) and {} or call('HVALS', key('upstreams', owner))`)

	// It returns the displaced one: when owner has ended during the handshake, that is the new one.
	scriptPutUpstream = ownerScript(`
local app, new = ARGV[7], ARGV[8]
if not use() then return new end
local old = call('HGET', key('upstreams', owner), app)
put('HSET', 'upstreams', app, new)
return old and id(old) ~= id(new) and old
`)
	scriptRemoveUpstream = ownerScript(`
local upstreams, app = key('upstreams', owner), ARGV[7]
local old = call('HGET', upstreams, app)
if old and id(old) == ARGV[8] then call('HDEL', upstreams, app) end
return 1
`)
	scriptRemember = ownerScript(`
local facts, name, value = key('facts', owner), ARGV[7], ARGV[8]
if not use() then return 0 end
if value == '' then
	call('HDEL', facts, name)
elseif call('HEXISTS', facts, name) == 1 or call('HLEN', facts) < tonumber(ARGV[9]) then
	put('HSET', 'facts', name, value)
end
return 1
`)
	scriptFacts = ownerScript(`return idle(owner) and {} or call('HGETALL', key('facts', owner))`)

	scriptOnce = ownerScript(`
local marks, shown = key('marks', owner), ARGV[7]
if not use() or call('SISMEMBER', marks, shown) == 1 then return 0 end
if call('SCARD', marks) >= tonumber(ARGV[8]) then call('DEL', marks) end
put('SADD', 'marks', shown)
return 1
`)
)
